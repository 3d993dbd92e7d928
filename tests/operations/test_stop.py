"""Stopping: not ready any more, everybody answered, everything closed, exit 0."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client, is_live
from tests.support.database import Database
from tests.support.services import serving, workers_of
from tests.support.waiting import WAIT_SECONDS, wait_until


@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_was_accepted_is_answered_and_nobody_is_ready_any_more(
    database: Database, workers: int
) -> None:
    with serving(database, workers=workers) as client, ThreadPoolExecutor(20) as pool:
        event, other = client.create_event(tickets=50), client.create_event(name="other")
        watching = threading.Event()

        def watch() -> bool:
            with (
                Client(base_url=client.base_url, timeout=WAIT_SECONDS) as own,
                own.stream("GET", f"/events/{event}/stream") as answer,
            ):
                for _ in answer.iter_lines():
                    watching.set()
            return True

        def buy() -> int:
            with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as own:
                return own.reserve(event).status_code

        stream = pool.submit(watch)
        assert watching.wait(WAIT_SECONDS)
        assert client.process is not None
        with database.holding(event):
            answers = [pool.submit(buy) for _ in range(10)]
            database.wait_until_blocked()
            client.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get("/health").status_code == 503)
            # A proxy that has not heard of it yet is served.
            assert client.reserve(other).status_code == 201
        assert {answer.result() for answer in answers} == {201}
        assert stream.result()
        assert client.process.wait(WAIT_SECONDS) == 0
    alone = "select from pg_stat_activity where application_name = 'holdfast' and datname = "
    wait_until(lambda: database.psql(f"{alone} current_database()") == [])
    assert database.psql(f"select allocated_tickets from events where id = '{event}'") == ["10"]


def test_a_second_signal_ends_it_at_once_and_still_in_order(database: Database) -> None:
    with serving(database) as client:
        assert client.process is not None
        client.process.send_signal(signal.SIGTERM)
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(WAIT_SECONDS) == 0


def test_a_worker_that_dies_is_replaced(database: Database) -> None:
    with serving(database, workers=2) as client:
        assert client.process is not None
        parent, before = client.process.pid, workers_of(client.process.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(workers_of(parent)) - set(before)) == 2)
        wait_until(lambda: is_live(client))
        assert client.reserve(client.create_event()).status_code == 201
