"""The load: sends requests over many connections and tells what came of them.

With wrk where there is one; else with a client of our own, which takes more of the machine and so
leaves less to what is measured.
"""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httptools

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Request:
    """A request; ``%n`` in its body becomes a number that no other request has."""

    method: str
    path: str
    body: str = ""
    """Of a DELETE: the fingerprint."""


@dataclass(frozen=True)
class Result:
    """What came of a load."""

    seconds: float
    p50: float
    """In milliseconds, as is the next."""
    p99: float
    longest: float
    lost: int
    """Requests that had no answer."""
    statuses: dict[int, int]

    def rate(self, *statuses: int) -> float:
        """Return how many answers of these statuses came in a second."""
        return sum(self.statuses.get(status, 0) for status in statuses) / self.seconds


def load(url: str, requests: Sequence[Request], clients: int, seconds: float) -> Result:
    """Send requests over and over, each client the next when it has its answer."""
    if shutil.which("wrk"):
        return _with_wrk(url, requests, clients, seconds)
    return asyncio.run(_with_our_own(url, requests, clients, seconds))


def _with_wrk(url: str, requests: Sequence[Request], clients: int, seconds: float) -> Result:
    with tempfile.NamedTemporaryFile("w") as file:
        file.writelines(f"{one.method}\t{one.path}\t{one.body}\n" for one in requests)
        file.flush()
        done = subprocess.run(
            [
                *("wrk", "--threads", "1", "--connections", str(clients), "--timeout", "10s"),
                *("--duration", f"{seconds:.0f}s", "--script", str(SCRIPT), url),
            ],
            env={**os.environ, "REQUESTS": file.name},
            capture_output=True,
            text=True,
            check=True,
        )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    told = json.loads(line)
    statuses = {int(status): number for status, number in told.pop("statuses").items()}
    return Result(statuses=statuses, **told)


async def _with_our_own(
    url: str, requests: Sequence[Request], clients: int, seconds: float
) -> Result:
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    numbers = count()
    end = time.monotonic() + seconds
    begun = time.monotonic()
    all_of_them = [
        await loop.create_connection(lambda: _Client(requests, numbers, end), host, int(port))
        for _ in range(clients)
    ]
    await asyncio.gather(*(client.done for _, client in all_of_them))
    took = time.monotonic() - begun
    statuses: Counter[int] = Counter()
    waits: list[float] = []
    for transport, client in all_of_them:
        transport.close()
        statuses += client.statuses
        waits += client.waits
    waits.sort()
    last = len(waits) - 1
    p50, p99, longest = (
        waits[int(last * part)] * 1000 if waits else 0.0 for part in (0.5, 0.99, 1)
    )
    lost = sum(client.lost for _, client in all_of_them)
    return Result(took, p50, p99, longest, lost, dict(statuses))


class _Client(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, requests: Sequence[Request], numbers: "count[int]", end: float) -> None:
        self._requests, self._numbers, self._end = requests, numbers, end
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.statuses: Counter[int] = Counter()
        self.waits: list[float] = []
        self.lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.monotonic()
        if self._sent >= self._end:
            if not self.done.done():
                self.done.set_result(None)
            return
        number = next(self._numbers)
        request = self._requests[number % len(self._requests)]
        body = request.body.replace("%n", str(number))
        head = f"{request.method} {request.path} HTTP/1.1\r\nHost: benchmark\r\n"
        if request.method == "DELETE":
            head, body = f"{head}X-User-Fingerprint: {body}\r\n", ""
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(f"{head}\r\n{body}".encode())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.statuses[self._parser.get_status_code()] += 1
        self.waits.append(time.monotonic() - self._sent)
        # Not from within the parser, which the next request replaces.
        asyncio.get_running_loop().call_soon(self._send)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.lost = 1
            self.done.set_result(None)
