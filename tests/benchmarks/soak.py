"""The soak: half an hour of a mixed crowd at half the best rate, with holds of half a minute.

Buyers reserve one to three tickets with a key, look at the event, and then pay, give back, or
let the hold lapse. What should be flat is: how long they wait, the memory of the service, and
what a ticket takes in the table and in its indexes.
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

EVENTS, CLIENTS, HOLD_SECONDS, BEST_SECONDS, SPAN_SECONDS = 200, 50, 30, 20, 60
HEADS = (
    *("minute", "requests a second", "p50 ms", "p99 ms", "longest ms", "not 2xx"),
    *("service MB", "tickets", "bytes a ticket", "in indexes", "dead rows"),
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
class Span:
    """What was seen since the last look."""

    waits: list[float] = field(default_factory=list)
    others: int = 0


class Buyer(asyncio.Protocol):
    """One connection, and who sits behind it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, method: str, path: str, body: object = None, headers: str = "") -> bytes:
        """Send a request and return the body of its answer."""
        content = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: soak\r\n{headers}"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self._body = b""
        self._transport.write(f"{head}\r\n".encode() + content)
        await self._answer
        self.status = self._parser.get_status_code()
        return self._body

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Hand the answer over, unless its buyer has gone."""
        if not self._answer.done():
            self._answer.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail whoever waits."""
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionError())


async def _buy(
    buyer: Buyer, events: list[str], span: Span, numbers: "count[int]", apart: list[float]
) -> None:
    """Buy for ever, with requests so many seconds apart."""
    dice = random.Random(next(numbers))
    begun = 0.0

    async def ask(method: str, path: str, body: object = None, headers: str = "") -> bytes:
        nonlocal begun
        due = begun + dice.uniform(0, 2 * apart[0])
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        begun = time.perf_counter()
        answer = await buyer.ask(method, path, body, headers)
        span.waits.append(time.perf_counter() - begun)
        span.others += not 200 <= buyer.status < 300
        return answer

    while True:
        event, who = dice.choice(events), f"buyer-{next(numbers)}"
        await ask("GET", f"/events/{event}")
        wanted = {"quantity": dice.randint(1, 3), "userFingerprint": who}
        told = await ask("POST", f"/events/{event}/tickets", wanted, f"Idempotency-Key: {who}\r\n")
        if buyer.status != 201:
            continue
        for ticket in msgspec.json.decode(told):
            path, chance = f"/events/tickets/{ticket['id']}/payment", dice.random()
            if chance < 0.5:
                await ask("POST", path, {"userFingerprint": who})
            elif chance < 0.7:
                await ask("DELETE", path, None, f"X-User-Fingerprint: {who}\r\n")


async def _crowd(url: str, events: list[str], minutes: int, look: "Look") -> None:
    host, port = url.removeprefix("http://").split(":")
    loop, span, numbers, apart = asyncio.get_running_loop(), Span(), count(), [0.0]
    buyers = [(await loop.create_connection(Buyer, host, int(port)))[1] for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(_buy(one, events, span, numbers, apart)) for one in buyers]
    await asyncio.sleep(BEST_SECONDS)
    best = len(span.waits) / BEST_SECONDS
    apart[0] = CLIENTS / (best / 2)
    look.best = best
    for minute in range(1, minutes + 1):
        span.waits.clear()
        span.others = 0
        await asyncio.sleep(SPAN_SECONDS)
        await asyncio.to_thread(look, minute, Span(list(span.waits), span.others))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Look:
    """Looks at the service and at the tables once a minute."""

    def __init__(self, dsn: str, process: subprocess.Popen[str]) -> None:
        self._dsn, self._process = dsn, process
        self.best = 0.0
        self.rows: list[tuple[float, ...]] = []

    def __call__(self, minute: int, span: Span) -> None:
        """Take down a line."""
        waits = sorted(span.waits)
        with psycopg.connect(self._dsn) as connection:
            (sizes,) = connection.execute(SIZES).fetchall()
        at = (waits[int((len(waits) - 1) * part)] * 1000 for part in (0.5, 0.99, 1))
        memory = peak_megabytes(self._process)
        self.rows.append((minute, len(waits) / SPAN_SECONDS, *at, span.others, memory, *sizes))


def soak(minutes: int, picture: Path | None = None) -> Iterator[tuple[str, ...]]:
    """Let the crowd buy for so many minutes, and draw what came of it."""
    yield HEADS
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        events = make_events(database, EVENTS)
        settings = {"HOLD_SECONDS": HOLD_SECONDS, "LOG_LEVEL": "warning"}
        with serving("holdfast", dsn, settings) as (url, process):
            look = Look(dsn, process)
            asyncio.run(_crowd(url, events, minutes, look))
    yield ("best", f"{look.best:,.0f}", *[""] * 9)
    for row in look.rows:
        yield tuple(
            f"{value:,.1f}" if n in (2, 3) else f"{value:,.0f}" for n, value in enumerate(row)
        )
    if picture:
        draw(look.rows, picture)


def draw(rows: list[tuple[float, ...]], picture: Path) -> None:
    """Draw latency, memory and bytes a ticket over the minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7))
    minutes = [row[0] for row in rows]
    panels = (
        ("ms", (("p50", 2), ("p99", 3))),
        ("MB", (("the service's memory", 6),)),
        ("bytes a ticket", (("in the table", 8), ("in its indexes", 9))),
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
    figure.savefig(picture, bbox_inches="tight", metadata={"Date": None})
