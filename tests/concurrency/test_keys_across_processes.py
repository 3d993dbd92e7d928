"""Idempotency keys across processes: a key reserves once, whichever process it is sent to."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from tests.support.citus import not_on_citus
from tests.support.client import Client, is_replay
from tests.support.database import Database
from tests.support.services import is_postgres_running, run_embedded_service, run_service
from tests.support.waiting import at_once, wait_until


def test_a_key_sent_to_two_workers_at_once_reserves_once(database: Database) -> None:
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=30)

        def send() -> httpx2.Response:
            # A new connection each time: the kernel balances connections, not requests.
            with Client(base_url=client.base_url, timeout=client.timeout) as new_client:
                return new_client.reserve(event, quantity=2, key="order-1")

        responses = at_once(*[send] * 20)
    assert {response.status_code for response in responses} == {201}
    assert len({response.text for response in responses}) == 1
    assert sum("Idempotency-Replayed" not in response.headers for response in responses) == 1
    assert database.psql("select count(*) from ticket_allocations") == ["2"]


@not_on_citus("it uses the embedded PostgreSQL")
def test_a_key_is_replayed_after_a_kill_of_the_service(folder: Path, unused_port: int) -> None:
    with run_embedded_service(folder, unused_port) as (process, client):
        event = client.create_event(tickets=2)
        first = client.reserve(event, quantity=2, key="order-1")
        process.kill()
    with run_embedded_service(folder, unused_port) as (_, client):
        assert is_replay(first, client.reserve(event, quantity=2, key="order-1"))
        assert client.find_event(event)["allocatedTickets"] == 2


@not_on_citus("it uses the embedded PostgreSQL")
def test_a_key_is_replayed_after_a_kill_of_postgresql(folder: Path, unused_port: int) -> None:
    with run_embedded_service(folder, unused_port) as (_, client), ThreadPoolExecutor(8) as pool:
        event = client.create_event(tickets=100)
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        postmaster = int(pid_file.read_text().splitlines()[0])
        keys = [f"order-{number}" for number in range(40)]
        pending = [pool.submit(client.reserve, event, key=key) for key in keys]
        pending[4].result()
        os.kill(postmaster, signal.SIGKILL)
        first = [request.result() for request in pending]
        wait_until(
            lambda: is_postgres_running(folder) and f"{postmaster}\n" not in pid_file.read_text()
        )
        wait_until(lambda: client.get("/health").status_code == 200)
        # Every request is sent again: those that had succeeded are replayed, the others reserve.
        again = [client.reserve(event, key=key) for key in keys]
        assert {response.status_code for response in again} == {201}
        assert {response.status_code for response in first} <= {201, 503}
        for before, after in zip(first, again, strict=True):
            assert before.status_code == 503 or is_replay(before, after)
        assert client.find_event(event)["allocatedTickets"] == len(keys)
