"""Crowds: they never oversell, and without the guards these tests fail."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.client import Client, send_crowd
from tests.support.database import Database
from tests.support.services import Starter, run_service
from tests.support.sql_copies import Edit, copy_sql

NO_LOCK = ("lock_events.sql", "for update of events", "")
NO_COUNT = (
    "reserve_tickets.sql",
    "when wanted between 1 and remaining[1] then 'granted'",
    "when wanted > 0 then 'granted'",
)


def is_oversold(database: Database) -> bool:
    """Whether more tickets were allocated than the event has."""
    excess = "select count(*) > max(total_tickets) from ticket_allocations, events"
    return database.psql(excess) == ["t"]


def slow_down_commits(database: Database) -> None:
    """Make each commit take 20 ms more, as on a slow disk, so that transactions overlap.

    On Citus, where a schema has no settings, a commit is slow anyway: it involves two nodes.
    """
    if not database.is_on_citus:
        (name,) = database.psql("select current_database()")
        database.psql(f"alter database {name} set commit_delay = 20000")
        database.psql(f"alter database {name} set commit_siblings = 0")


def count_constraint_failures(client: Client) -> int:
    """Return how many batches of this process a constraint has aborted."""
    failures = r'^holdfast_batches_failed_total{reason="23"} (\d+)'
    return sum(map(int, re.findall(failures, client.get("/metrics").text, re.M)))


@pytest.mark.core
def test_two_thousand_buyers_get_exactly_the_hundred_tickets(database: Database) -> None:
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=100)
        responses = send_crowd([str(client.base_url)], event, people=2000, connections=200)
        assert responses == {(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 1900}
        assert client.find_event(event)["availableTickets"] == 0
    assert database.psql("select allocated_tickets from events") == ["100"]
    assert database.psql("select count(*) from ticket_allocations") == ["100"]
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    assert database.psql(deadlocks) == ["0"]


def test_a_crowd_that_buys_three_tickets_each_never_oversells(
    database: Database, start: Starter
) -> None:
    urls = [start(database).url for _ in range(2)]
    with start(database).client() as client:
        event = client.create_event(tickets=100)
    responses = send_crowd(urls, event, people=300, connections=50, quantity=3)
    assert responses[201, ""] == 33
    assert responses[409, "NOT_ENOUGH_TICKETS"] == 267
    assert not is_oversold(database)


@pytest.mark.parametrize("edit", [NO_LOCK, NO_COUNT], ids=["the lock", "the count"])
def test_the_same_crowd_oversells_without_its_guard(
    unbalanced_database: Database, start: Starter, tmp_path: Path, edit: Edit
) -> None:
    database, folder = unbalanced_database, copy_sql(tmp_path, edit)
    database.psql("alter table events drop constraint events_never_oversold")
    slow_down_commits(database)
    urls = [start(database, sql_dir=folder).url for _ in range(2)]
    with start(database, sql_dir=folder).client() as client:
        event = client.create_event(tickets=100)
    responses = send_crowd(urls, event, people=2000, connections=200)
    assert responses[201, ""] > 100
    assert is_oversold(database)


def test_a_crowd_on_a_slow_disk_never_oversells(database: Database, start: Starter) -> None:
    slow_down_commits(database)
    urls = [start(database).url for _ in range(2)]
    with start(database).client() as client:
        event = client.create_event(tickets=100)
        before = count_constraint_failures(client)
        responses = send_crowd(urls, event, people=2000, connections=200)
        # A batch that the CHECK constraint aborts is tried again by halves, which would hide it.
        assert count_constraint_failures(client) == before
    assert responses == Counter({(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 1900})


def test_the_check_constraint_refuses_an_oversold_batch(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    service = start(database, sql_dir=copy_sql(tmp_path, NO_COUNT))
    with service.client() as client:
        event = client.create_event(tickets=1)
        assert client.reserve(event).status_code == 201
        response = client.reserve(event)
        assert (response.status_code, response.json()["code"]) == (500, "INTERNAL_SERVER_ERROR")
        assert "events_never_oversold" not in response.text
        assert client.find_event(event)["allocatedTickets"] == 1
