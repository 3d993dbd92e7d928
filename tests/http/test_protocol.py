"""The HTTP protocol: its limits on one connection, with limits that are small."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service import limits
from service.web.protocol import Protocol
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.sockets import read_all, statuses
from tests.support.waiting import WAIT_SECONDS

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def connect(service: RunningService) -> Iterator[socket.socket]:
    """Open a connection to a service."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
        yield connection


def read_response(connection: socket.socket) -> bytes:
    """Read one response of the liveness check."""
    response = b""
    while not response.endswith(b'{"status":"ok"}'):
        part = connection.recv(4096)
        assert part, response
        response += part
    return response


@pytest.fixture
def impatient(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> RunningService:
    """A service that waits for a header for a moment only."""
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.2)
    return start(database, sweeps=False)


@pytest.mark.parametrize("beginning", [b"", b"GET /health/live HT"])
def test_a_silent_connection_is_closed(impatient: RunningService, beginning: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(beginning)
        assert read_all(connection) == b""


def test_a_slow_second_header_closes_the_connection(impatient: RunningService) -> None:
    with connect(impatient) as connection:
        connection.sendall(LIVE)
        read_response(connection)
        connection.sendall(LIVE[:20])
        assert read_all(connection) == b""


def test_a_body_may_arrive_after_the_time_for_the_header(impatient: RunningService) -> None:
    body = b'{"quantity": 1, "userFingerprint": "alice"}'
    with connect(impatient) as connection:
        connection.sendall(
            b"POST /events/018f0000-0000-7000-8000-000000000001/tickets HTTP/1.1\r\n"
            b"Host: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        time.sleep(2 * limits.HEADER_SECONDS)
        connection.sendall(body)
        assert statuses(read_all(connection)) == [404]


def test_a_body_that_nobody_reads_is_ignored_beyond_a_limit(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is not parsed: a request behind the body gets no response."""
    monkeypatch.setattr(limits, "MAX_DISCARDED_BYTES", 10_000)
    monkeypatch.setattr(limits, "BODY_SECONDS", 1.0)
    head = LIVE.replace(b"\r\n\r\n", b"\r\nContent-Length: 20000\r\n\r\n")
    with connect(service) as connection:
        connection.sendall(head)
        read_response(connection)
        connection.sendall(b"x" * 20_000 + LIVE)
        assert statuses(read_all(connection)) == []


def test_pipelined_requests_are_parsed_a_few_at_a_time(
    service: RunningService,
    client: Client,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the first request of a connection waits, most of the others are not parsed."""
    parsed = 0
    on_headers_complete = Protocol.on_headers_complete

    def count(self: Protocol) -> None:
        nonlocal parsed
        parsed += 1
        on_headers_complete(self)

    monkeypatch.setattr(Protocol, "on_headers_complete", count)
    event = client.create_event()
    body = b'{"quantity": 1, "userFingerprint": "alice"}'
    reservation = (
        f"POST /events/{event}/tickets HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    parsed = 0
    with connect(service) as connection:
        with database.lock_event(event):
            connection.sendall(reservation + LIVE * 400)
            database.wait_until_blocked()
            assert parsed < 200
        received = b""
        while len(statuses(received)) < 401:
            received += connection.recv(65_536)
    assert statuses(received) == [201] + [200] * 400
