"""The load generator sends requests over many connections and measures the responses.

It is wrk where that is installed, else a client in Python, which needs more CPU and leaves less
to the server under test.
"""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httptools

from service.temporary import TemporaryFolder

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Request:
    """A request; ``%n`` in its body is replaced by a unique number."""

    method: str
    path: str
    body: str = ""  # for a DELETE, the fingerprint


@dataclass(frozen=True)
class Result:
    """The result of a load."""

    seconds: float  # the duration
    p50: float  # latencies in milliseconds
    p99: float
    longest: float
    lost: int  # requests without a response
    statuses: dict[int, int]  # the number of responses by status

    def rate(self, *statuses: int) -> float:
        """Return the number of responses with these statuses per second."""
        return sum(self.statuses.get(status, 0) for status in statuses) / self.seconds


def load(url: str, requests: Sequence[Request], clients: int, seconds: float) -> Result:
    """Send the requests repeatedly; each client sends the next one after a response."""
    if shutil.which("wrk"):
        return _with_wrk(url, requests, clients, seconds)
    return asyncio.run(_with_own_client(url, requests, clients, seconds))


def _with_wrk(url: str, requests: Sequence[Request], clients: int, seconds: float) -> Result:
    with TemporaryFolder.create("load") as folder:
        file = folder.path / "requests"
        file.write_text("".join(f"{each.method}\t{each.path}\t{each.body}\n" for each in requests))
        process = subprocess.run(
            [
                *("wrk", "--threads", "1", "--connections", str(clients), "--timeout", "10s"),
                *("--duration", f"{seconds:.0f}s", "--script", str(SCRIPT), url),
            ],
            env={**os.environ, "REQUESTS": str(file)},
            capture_output=True,
            text=True,
            check=True,
        )
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("{")]
    summary = json.loads(line)
    statuses = {int(status): number for status, number in summary.pop("statuses").items()}
    return Result(statuses=statuses, **summary)


async def _with_own_client(
    url: str, requests: Sequence[Request], clients: int, seconds: float
) -> Result:
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    numbers = count()
    end = time.monotonic() + seconds
    start = time.monotonic()
    connections = [
        await loop.create_connection(lambda: _Client(requests, numbers, end), host, int(port))
        for _ in range(clients)
    ]
    await asyncio.gather(*(client.done for _, client in connections))
    took = time.monotonic() - start
    statuses: Counter[int] = Counter()
    waits: list[float] = []
    for transport, client in connections:
        transport.close()
        statuses += client.statuses
        waits += client.waits
    waits.sort()
    last = len(waits) - 1
    p50, p99, longest = (
        waits[int(last * part)] * 1000 if waits else 0.0 for part in (0.5, 0.99, 1)
    )
    lost = sum(client.lost for _, client in connections)
    return Result(took, p50, p99, longest, lost, dict(statuses))


class _Client(asyncio.Protocol):
    """One connection: it sends the next request after each response."""

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
        head = f"{request.method} {request.path} HTTP/1.1\r\nHost: localhost\r\n"
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
        # Not within the callback of the parser, which the next request replaces.
        asyncio.get_running_loop().call_soon(self._send)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.lost = 1
            self.done.set_result(None)
