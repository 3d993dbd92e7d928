"""The soak: half an hour of mixed load at half the best rate, with holds of 30 s.

Buyers read an event, reserve one to three tickets with a key, and then pay, cancel or let the hold
expire. The latency, the memory of the service and the bytes per ticket should stay constant.
"""

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httptools
import msgspec
import psycopg

from tests.benchmarks.contenders import own_database, peak_megabytes, serving
from tests.benchmarks.workloads import make_events

EVENTS, CLIENTS, HOLD_SECONDS, CALIBRATION_SECONDS, SAMPLE_SECONDS = 200, 50, 30, 20, 60
COLUMNS = (
    *("minute", "requests per second", "p50 ms", "p99 ms", "longest ms", "not 2xx"),
    *("service MB", "tickets", "bytes per ticket", "in indexes", "dead rows"),
)
SIZES = """
select
    count(*) as tickets,
    pg_table_size('ticket_allocations') / greatest(count(*), 1) as bytes,
    pg_indexes_size('ticket_allocations') / greatest(count(*), 1) as in_indexes,
    (select n_dead_tup from pg_stat_user_tables where relname = 'ticket_allocations') as dead
from ticket_allocations
"""


@dataclass
class Sample:
    """The latencies and the responses that are not 2xx since the last sample."""

    waits: list[float] = field(default_factory=list)
    others: int = 0


class Buyer(asyncio.Protocol):
    """The connection of one buyer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def send(self, method: str, path: str, body: object = None, headers: str = "") -> bytes:
        """Send a request and return the body of the response."""
        content = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        self._parser = httptools.HttpResponseParser(self)
        self._response = asyncio.get_running_loop().create_future()
        self._body = b""
        self._transport.write(f"{head}\r\n".encode() + content)
        await self._response
        self.status = self._parser.get_status_code()
        return self._body

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Complete the request, unless it was cancelled."""
        if not self._response.done():
            self._response.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits for a response."""
        if not self._response.done():
            self._response.set_exception(error or ConnectionError())


async def _buy_forever(
    buyer: Buyer, events: list[str], sample: Sample, numbers: "count[int]", interval: list[float]
) -> None:
    """Buy without end; ``interval`` holds the mean seconds between two requests."""
    generator = random.Random(next(numbers))
    start_time = 0.0

    async def send(method: str, path: str, body: object = None, headers: str = "") -> bytes:
        nonlocal start_time
        due = start_time + generator.uniform(0, 2 * interval[0])
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        start_time = time.perf_counter()
        response = await buyer.send(method, path, body, headers)
        sample.waits.append(time.perf_counter() - start_time)
        sample.others += not 200 <= buyer.status < 300
        return response

    while True:
        event, user = generator.choice(events), f"buyer-{next(numbers)}"
        await send("GET", f"/events/{event}")
        body = {"quantity": generator.randint(1, 3), "userFingerprint": user}
        response = await send(
            "POST", f"/events/{event}/tickets", body, f"Idempotency-Key: {user}\r\n"
        )
        if buyer.status != 201:
            continue
        for ticket in msgspec.json.decode(response):
            path, chance = f"/events/tickets/{ticket['id']}/payment", generator.random()
            if chance < 0.5:
                await send("POST", path, {"userFingerprint": user})
            elif chance < 0.7:
                await send("DELETE", path, None, f"X-User-Fingerprint: {user}\r\n")


async def _run_crowd(url: str, events: list[str], minutes: int, sampler: "Sampler") -> None:
    host, port = url.removeprefix("http://").split(":")
    loop, sample, numbers, interval = asyncio.get_running_loop(), Sample(), count(), [0.0]
    buyers = [(await loop.create_connection(Buyer, host, int(port)))[1] for _ in range(CLIENTS)]
    tasks = [
        asyncio.create_task(_buy_forever(buyer, events, sample, numbers, interval))
        for buyer in buyers
    ]
    await asyncio.sleep(CALIBRATION_SECONDS)
    best = len(sample.waits) / CALIBRATION_SECONDS
    interval[0] = CLIENTS / (best / 2)
    sampler.best = best
    for minute in range(1, minutes + 1):
        sample.waits.clear()
        sample.others = 0
        await asyncio.sleep(SAMPLE_SECONDS)
        await asyncio.to_thread(sampler, minute, Sample(list(sample.waits), sample.others))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Sampler:
    """Samples the service and the tables once a minute."""

    def __init__(self, dsn: str, process: subprocess.Popen[str]) -> None:
        self._dsn, self._process = dsn, process
        self.best = 0.0
        self.rows: list[tuple[float, ...]] = []

    def __call__(self, minute: int, sample: Sample) -> None:
        """Record a row of the table."""
        waits = sorted(sample.waits)
        with psycopg.connect(self._dsn) as connection:
            (sizes,) = connection.execute(SIZES).fetchall()
        at = (waits[int((len(waits) - 1) * part)] * 1000 for part in (0.5, 0.99, 1))
        memory = peak_megabytes(self._process)
        self.rows.append((minute, len(waits) / SAMPLE_SECONDS, *at, sample.others, memory, *sizes))


def soak(minutes: int, file: Path | None = None) -> Iterator[tuple[str, ...]]:
    """Let the crowd buy for some minutes, yield a row for each, and plot them."""
    yield COLUMNS
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        events = make_events(database, EVENTS)
        settings = {"HOLD_SECONDS": HOLD_SECONDS, "LOG_LEVEL": "warning"}
        with serving("holdfast", dsn, settings) as (url, process):
            sampler = Sampler(dsn, process)
            asyncio.run(_run_crowd(url, events, minutes, sampler))
    yield ("best", f"{sampler.best:,.0f}", *[""] * 9)
    for row in sampler.rows:
        yield tuple(
            f"{value:,.1f}" if n in (2, 3) else f"{value:,.0f}" for n, value in enumerate(row)
        )
    if file:
        plot(sampler.rows, file)


def plot(rows: list[tuple[float, ...]], file: Path) -> None:
    """Plot latency, memory and bytes per ticket over the minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7))
    minutes = [row[0] for row in rows]
    panels = (
        ("ms", (("p50", 2), ("p99", 3))),
        ("MB", (("memory of the service", 6),)),
        ("bytes per ticket", (("in the table", 8), ("in its indexes", 9))),
    )
    for n, (unit, lines) in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, n)
        for label, column in lines:
            axes.plot(minutes, [row[column] for row in rows], label=label)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.legend()
        axes.grid(alpha=0.3)
    axes.set_xlabel("minutes")
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
