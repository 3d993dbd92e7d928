"""Graceful shutdown: not ready, all responses sent, all connections closed, exit code 0."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service import limits
from tests.support.client import Client, is_live
from tests.support.database import Database, skip_if_pooled
from tests.support.lossy_proxy import proxy_database
from tests.support.services import run_service, worker_pids
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until


@pytest.mark.parametrize("workers", [1, 2])
def test_accepted_requests_get_responses_and_the_service_is_not_ready(
    database: Database, workers: int
) -> None:
    with run_service(database, workers=workers) as client, ThreadPoolExecutor(20) as pool:
        event, other = client.create_event(tickets=50), client.create_event(name="other")
        is_watching, all_connected = threading.Event(), threading.Barrier(11)

        def watch() -> bool:
            with (
                Client(base_url=client.base_url, timeout=WAIT_SECONDS) as watcher,
                watcher.stream("GET", f"/events/{event}/stream") as response,
            ):
                for _ in response.iter_lines():
                    is_watching.set()
            return True

        def buy() -> int:
            with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as buyer:
                buyer.get("/health/live")  # so that the buyer is connected
                all_connected.wait(WAIT_SECONDS)
                return buyer.reserve(event).status_code

        stream = pool.submit(watch)
        assert is_watching.wait(WAIT_SECONDS)
        assert client.process is not None
        purchases = [pool.submit(buy) for _ in range(10)]
        with database.lock_event(event):
            all_connected.wait(WAIT_SECONDS)
            database.wait_until_blocked()
            client.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get("/health").status_code == 503)
            # A proxy that does not know it yet still gets responses.
            assert client.reserve(other).status_code == 201
        assert {purchase.result() for purchase in purchases} == {201}
        assert stream.result()
        assert client.process.wait(WAIT_SECONDS) == 0
    connections = "select from pg_stat_activity where application_name = 'holdfast' and datname = "
    wait_until(lambda: database.psql(f"{connections} current_database()") == [])
    assert database.psql(f"select allocated_tickets from events where id = '{event}'") == ["10"]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_connection_is_served_or_refused_while_the_service_stops(
    database: Database, workers: int
) -> None:
    with run_service(database, workers=workers) as client, ThreadPoolExecutor(1) as pool:
        assert client.process is not None
        event = client.create_event()
        address = client.base_url.host, client.base_url.port
        outcomes: Counter[str] = Counter()
        with database.lock_event(event):
            # A worker waits for this one after it has closed its socket.
            reserving = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            client.process.send_signal(signal.SIGTERM)
            while not reserving.done():
                outcomes[connect(*address)] += 1
        assert client.process.wait(WAIT_SECONDS) == 0
    assert set(outcomes) == {"served", "refused"}


@pytest.mark.parametrize("workers", [1, 2])
def test_new_clients_are_refused_while_the_last_responses_are_awaited(
    database: Database, workers: int
) -> None:
    with run_service(database, workers=workers) as client:
        host, port = client.base_url.host, client.base_url.port
        assert client.process is not None
        assert port is not None
        with socket.create_connection((host, port), timeout=WAIT_SECONDS) as waiting:
            body = b'{"name": "Gig", "date": "2030-01-01T20:00:00Z", "totalTickets": 1}'
            waiting.sendall(
                b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body)
            )
            client.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_listening(port))
            assert connect(host, port) == "refused"
            # Until BODY_SECONDS are over, the service waits for the body.
            waiting.sendall(body)
            assert waiting.recv(100).startswith(b"HTTP/1.1 201")
        assert client.process.wait(WAIT_SECONDS) == 0


@pytest.mark.slow
@skip_if_pooled("the proxy leads to PostgreSQL itself")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_stops_while_no_pool_gets_a_connection(
    database: Database, workers: int
) -> None:
    with (
        proxy_database(database) as (proxied, proxy),
        run_service(proxied, workers=workers) as client,
    ):
        assert client.process is not None
        event = client.create_event()
        # The pools connect again, and get no answer.
        proxy.forwarding.clear()
        proxy.reset_all()
        paths = ("/events", f"/events/{event}", f"/events/{event}/audit", "/health")
        reads = [lambda path=path: client.get(path) for path in paths]
        responses = at_once(*reads, lambda: client.reserve(event))
        assert {response.status_code for response in responses} == {503}
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(limits.STOP_WORKERS_SECONDS) == 0


@pytest.mark.slow  # STOP_WORKERS_SECONDS
def test_a_worker_that_does_not_stop_is_killed(database: Database) -> None:
    with run_service(database, workers=2) as client:
        assert client.process is not None
        worker, _ = worker_pids(client.process.pid)
        os.kill(worker, signal.SIGSTOP)
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(limits.STOP_WORKERS_SECONDS + WAIT_SECONDS) == 0


def is_listening(port: int) -> bool:
    """Whether any process of this machine listens on a port."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        state == "0A" and local.endswith(f":{port:04X}") for _, local, _, state, *_ in sockets
    )


def connect(host: str, port: int | None) -> str:
    """Send a request over a new connection and return what became of it."""
    try:
        with socket.create_connection((host, port), timeout=WAIT_SECONDS) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return "served" if connection.recv(100).startswith(b"HTTP/1.1 200") else "closed"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionError:
        return "reset"


def test_a_second_signal_stops_the_service_at_once_with_exit_code_0(database: Database) -> None:
    with run_service(database) as client:
        assert client.process is not None
        client.process.send_signal(signal.SIGTERM)
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(WAIT_SECONDS) == 0


def test_a_killed_worker_is_replaced(database: Database) -> None:
    with run_service(database, workers=2) as client:
        assert client.process is not None
        parent, before = client.process.pid, worker_pids(client.process.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(worker_pids(parent)) - set(before)) == 2)
        wait_until(lambda: is_live(client))
        assert client.reserve(client.create_event()).status_code == 201


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_addresses_and_that_it_has_stopped(
    database: Database, unused_port: int, workers: int, stop_signal: signal.Signals
) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    options = ["--host", "127.0.0.1", "--port", str(unused_port)]
    settings = {"WORKERS": str(workers), "LOG_LEVEL": "error"}
    overridden = {"HOST": "192.0.2.1", "PORT": "none"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", *options],
        env={**os.environ, "DATABASE_URL": database.service_dsn, **settings, **overridden},
        stderr=subprocess.PIPE,
        text=True,
    )
    with Client(base_url=url, timeout=WAIT_SECONDS) as client:
        wait_until(lambda: is_live(client) or process.poll() is not None)
        assert client.get("/docs").status_code == client.get("/").status_code == 200
    process.send_signal(stop_signal)
    output = process.communicate(timeout=WAIT_SECONDS)[1]
    assert process.returncode == 0
    assert output.splitlines()[1:] == [
        f"holdfast serves {url} with {workers} worker(s)",
        f"box office: {url}/",
        f"API documentation: {url}/docs",
        "holdfast stopped",
    ]
