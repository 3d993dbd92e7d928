"""Hostile clients: slow, endless, malformed or gone, they cost little and disturb nobody else.

All tests share one service, which runs as its own process so that its memory can be measured.
"""

import json
import os
import random
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from service import limits
from tests.support.client import Client
from tests.support.database import Database, create_database
from tests.support.services import run_service
from tests.support.sockets import read_all, statuses
from tests.support.waiting import WAIT_SECONDS, wait_until

MEBIBYTE = 1024 * 1024
# The peak growth in memory that one test may cause. Tests that check it send far more.
MAX_GROWTH_BYTES = 48 * MEBIBYTE


@pytest.fixture(scope="module")
def database(server: str, template: str) -> Iterator[Database]:
    """One database for all tests of this module; its books must add up at the end."""
    with create_database(server, template) as database:
        yield database
        database.check_books()


@pytest.fixture(scope="module")
def client(database: Database) -> Iterator[Client]:
    """A client of the service under attack."""
    with run_service(database, log_level="error", allowed_hosts="x,127.0.0.1") as client:
        yield client


@pytest.fixture
def event(client: Client, request: pytest.FixtureRequest) -> str:
    """A new event with enough tickets."""
    return client.create_event(tickets=100_000, name=request.node.name)


@contextmanager
def unharmed(client: Client, event: str) -> Iterator[None]:
    """Assert that the block costs little memory and that other clients get their responses."""
    assert client.process is not None
    process = Path(f"/proc/{client.process.pid}")
    client.hold(event)  # allocate what is allocated once
    (process / "clear_refs").write_text("5")  # reset VmHWM, see proc(5)
    before, files = memory(process, "VmRSS"), len(os.listdir(process / "fd"))
    yield
    client.hold(event)
    assert memory(process, "VmHWM") - before < MAX_GROWTH_BYTES
    assert client.process.poll() is None
    assert re.findall(r'^holdfast_request_seconds_count\{.*status="5', metrics(client), re.M) == []
    # Every connection is closed, except those of the pool to PostgreSQL.
    wait_until(lambda: len(os.listdir(process / "fd")) < files + 10)


def memory(process: Path, field: str) -> int:
    """Return a field of /proc/<pid>/status in bytes: VmRSS is current memory, VmHWM the peak."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", (process / "status").read_text(), re.M)
    assert match
    return int(match[1]) * 1024


def metrics(client: Client) -> str:
    return client.get("/metrics").text


def connect(client: Client) -> socket.socket:
    """Open a connection to the service."""
    url = client.base_url
    assert url.port is not None
    return socket.create_connection((url.host, url.port), timeout=WAIT_SECONDS)


def reservation(event: str, user: str = "mallory", *headers: str) -> bytes:
    """Return the bytes of a request that reserves a ticket."""
    body = json.dumps({"quantity": 1, "userFingerprint": user})
    head = [
        f"POST /events/{event}/tickets HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join([*head, "", ""]) + body).encode()


def is_closed(connection: socket.socket) -> bool:
    """Return whether the service has closed a connection; data it has sent is dropped."""
    try:
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(65_536):
                return True
    except ConnectionError:
        return True
    return False


def test_a_slow_client_is_disconnected(client: Client, event: str) -> None:
    head = reservation(event).partition(b"\r\n\r\n")[0]
    beginnings = {
        "silent": b"",
        "blank": b"\r\n",
        "header": head[:20],
        "second header": b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" + head[:20],
        "body": head + b"\r\n\r\n",
        "unread body": b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
        "chunk": head.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX")
        + b"\r\n\r\nfff\r\n",
    }
    with unharmed(client, event), ExitStack() as stack:
        slow = {
            (kind, number): stack.enter_context(connect(client))
            for kind in beginnings
            for number in range(500 if kind == "silent" else 20)
        }
        for (kind, _), connection in slow.items():
            connection.sendall(beginnings[kind])
        deadline = time.monotonic() + 2 * WAIT_SECONDS
        while slow:
            assert time.monotonic() < deadline, {kind for kind, _ in slow}
            client.hold(event)
            slow = {
                name: connection for name, connection in slow.items() if not is_closed(connection)
            }
            for (kind, _), connection in slow.items():
                if kind != "silent":
                    with suppress(ConnectionError):
                        connection.send(b"\r\n" if kind == "blank" else b"x")
            time.sleep(1)  # a byte per second


@pytest.mark.parametrize(
    ("beginning", "repeated", "status"),
    [
        ("POST {path} HTTP/1.1\r\nHost: x\r\nX: ", b"x" * MEBIBYTE, 431),
        ("POST /", b"x" * MEBIBYTE, 431),
        ("POST {path} HTTP/1.1\r\nHost: x\r\n", b"X: x\r\n" * 200_000, 431),
        ("", b"\r\n" * 500_000, 431),
        (
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
            b"x" * MEBIBYTE,
            413,
        ),
        (
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"100000\r\n" + b"x" * MEBIBYTE + b"\r\n",
            413,
        ),
        (
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
            b"x" * MEBIBYTE,
            None,
        ),
        (
            "GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
            b"x" * MEBIBYTE,
            200,
        ),
    ],
    ids=["header", "path", "headers", "blank lines", "body", "chunks", "trailer", "unread body"],
)
def test_an_endless_request_is_not_kept_in_memory(
    client: Client, event: str, beginning: str, repeated: bytes, status: int | None
) -> None:
    with unharmed(client, event), connect(client) as connection:
        connection.sendall(beginning.format(path=f"/events/{event}/tickets").encode())
        received = b""
        try:
            for number in range(100):
                connection.sendall(repeated)
                if select.select([connection], [], [], 0)[0]:
                    received += connection.recv(65_536)
                if number % 10 == 0:
                    client.hold(event)
        except ConnectionError:
            pass
        # A client that sends while the connection is closed may lose the response.
        assert statuses(received) in ([], [status])


def test_only_a_header_over_the_limit_is_refused(client: Client) -> None:
    name = "x" * (limits.MAX_HEADER_BYTES - 1024)
    assert client.get("/health/live", headers={"X": name}).status_code == 200
    with connect(client) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (limits.MAX_HEADER_BYTES + 8192))
        assert statuses(read_all(connection)) == [431]


def malformed(event: str) -> Iterator[bytes]:
    """Yield broken requests without end, the same ones in each run."""
    dice = random.Random(20_261_122)
    chunked = (
        f"POST /events/{event}/tickets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        'Transfer-Encoding: chunked\r\n\r\n2\r\n{"\r\n12\r\nquantity":1,"userF\r\n0\r\nX: y\r\n\r\n'
    ).encode()
    valid = [
        reservation(event),
        reservation(event, "eve", "Idempotency-Key: k", "Connection: keep-alive", "Expect: x"),
        chunked,
        f"GET /events/{event}?at=2030-01-01T00%3A00%3A00Z HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /tickets?page=1 HTTP/1.0\r\nX-User-Fingerprint: mallory\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    odd = [b"\0", b"\n", b"\r\n", b" ", b":", b"\xff", b"%", b"-1", b"9" * 30, b"chunked,", b"HTTP"]
    while True:
        request = bytearray(dice.choice(valid))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(request) + 1)
            match dice.randrange(5):
                case 0:
                    request[at : at + 1] = bytes([dice.randrange(256)])
                case 1:
                    request[at:at] = dice.choice(odd)
                case 2:
                    del request[at : at + dice.randint(1, 9)]
                case 3:
                    request[at:at] = request[at : at + dice.randint(1, 40)]
                case 4:
                    del request[at:]
        yield bytes(request)


def test_ten_thousand_malformed_requests_harm_nobody(client: Client, event: str) -> None:
    requests = malformed(event)
    received: list[int] = []
    with unharmed(client, event):
        for _ in range(20):
            with ExitStack() as stack:
                waiting = []
                for request in islice(requests, 500):
                    connection = stack.enter_context(connect(client))
                    connection.sendall(request)
                    waiting.append(connection)
                client.hold(event)
                # An incomplete request gets no response: read until none has come for a while.
                while ready := select.select(waiting, [], [], 0.2)[0]:
                    for connection in ready:
                        waiting.remove(connection)
                        with suppress(ConnectionResetError):
                            received += statuses(connection.recv(65_536))
    assert len(received) > 2000
    assert {status // 100 for status in received} <= {2, 4}


def test_pipelined_requests_get_their_responses_in_order(client: Client, event: str) -> None:
    requests = [reservation(event, f"p{n}", f"X-Request-Id: n{n}") for n in range(100)]
    requests += [
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: n%d\r\n\r\n" % n
        for n in range(100, 900)
    ]
    requests.append(
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: last\r\nConnection: close\r\n\r\n"
    )
    with unharmed(client, event), connect(client) as connection:
        connection.sendall(b"".join(requests))
        received = read_all(connection)
    assert statuses(received) == [201] * 100 + [200] * 801
    request_ids = re.findall(rb"^x-request-id: (\w+)", received, re.M)
    assert request_ids == [*(f"n{n}".encode() for n in range(900)), b"last"]


def test_a_client_that_pipelines_and_never_reads_blocks_nobody(client: Client, event: str) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    flood = request * 100_000
    with unharmed(client, event), ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connect(client))
            connection.setblocking(False)
            sent = 0
            for number in range(60):
                try:
                    sent += connection.send(flood[sent % len(request) :])
                except BlockingIOError:
                    time.sleep(0.005)
                if number % 20 == 0:
                    client.hold(event)


def test_garbage_after_a_request_does_not_replace_its_response(
    client: Client, event: str, database: Database
) -> None:
    with connect(client) as connection:
        with database.lock_event(event):
            connection.sendall(reservation(event))
            database.wait_until_blocked()
            connection.sendall(b"\0\0\0")
            # The service reads the bytes above before it answers this request.
            assert client.get("/health/live").status_code == 200
        assert statuses(read_all(connection)) == [201]
    with connect(client) as connection:
        connection.sendall(reservation(event) * 3 + b"\0\0\0")
        assert statuses(read_all(connection)) == [201] * 3


def test_an_upgrade_offer_is_ignored(client: Client, event: str) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    request = reservation(event, "mallory", *offer)
    last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with unharmed(client, event):
        for cut in (len(request), len(request) - 9, request.index(b"\r\n\r\n") + 4, 30):
            with connect(client) as connection:
                connection.sendall(request[:cut])
                assert client.get("/health/live").status_code == 200
                connection.sendall(request[cut:] + request + last)
                assert statuses(read_all(connection)) == [201, 201, 200]
        with connect(client) as connection:
            connection.sendall(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\nwhatever")
            assert statuses(read_all(connection)) == [400]


def test_a_trailer_does_not_count_as_a_header(client: Client, event: str) -> None:
    (ticket,) = client.hold(event, user="alice")
    with connect(client) as connection:
        connection.sendall(
            f"DELETE /events/tickets/{ticket}/payment HTTP/1.1\r\nHost: x\r\n"
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            "0\r\nX-User-Fingerprint: alice\r\n\r\n".encode()
        )
        assert statuses(read_all(connection)) == [400]


def test_clients_that_leave_before_the_response_cost_nothing(client: Client, event: str) -> None:
    request = reservation(event)
    with unharmed(client, event):
        for number in range(1000):
            with connect(client) as connection:
                connection.sendall(request if number % 2 else request[: number % len(request)])
            if number % 100 == 0:
                client.hold(event)
