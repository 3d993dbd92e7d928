"""The crowd: never one too many, and the test that says so can fail."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from service.settings import resource
from tests.support.client import Client, send_crowd
from tests.support.database import Database
from tests.support.services import Starter, run_service


def oversold(database: Database) -> bool:
    """Whether more tickets are held or sold than there are."""
    sold = "select count(*) > max(total_tickets) from ticket_allocations, events"
    return database.psql(sold) == ["t"]


def take_out(folder: Path, file: str, guard: str, instead: str) -> None:
    """Make a copy of sql/ in which one file lacks a guard."""
    shutil.copytree(resource("sql"), folder, dirs_exist_ok=True)
    text = (folder / file).read_text()
    assert text.count(guard) == 1, f"{file} does not have once: {guard}"
    (folder / file).write_text(text.replace(guard, instead))


def refused_by_a_constraint(client: Client) -> int:
    """Return how many batches of this process a constraint has undone."""
    shown = client.get("/metrics").text
    return sum(
        map(int, re.findall(r'^holdfast_batches_failed_total{reason="23"} (\d+)', shown, re.M))
    )


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
    assert not oversold(database)


@pytest.mark.parametrize(
    ("file", "guard", "without"),
    [
        ("lock_events.sql", "for update of events", ""),
        (
            "reserve_tickets.sql",
            "where line.wanted <= line.available_tickets",
            "where line.wanted > 0",
        ),
    ],
    ids=["the lock", "the count"],
)
def test_the_same_crowd_oversells_without_its_guard(
    unbalanced_database: Database,
    start: Starter,
    tmp_path: Path,
    file: str,
    guard: str,
    without: str,
) -> None:
    database = unbalanced_database
    take_out(tmp_path, file, guard, without)
    database.psql("alter table events drop constraint events_never_oversold")
    # Each commit takes its time, as on a slow disk: so the two services surely overlap.
    name = database.psql("select current_database()")[0]
    database.psql(f"alter database {name} set commit_delay = 20000")
    database.psql(f"alter database {name} set commit_siblings = 0")
    urls = [start(database, sql_dir=tmp_path).url for _ in range(2)]
    with start(database, sql_dir=tmp_path).client() as client:
        event = client.create_event(tickets=100)
    responses = send_crowd(urls, event, people=2000, connections=200)
    assert responses[201, ""] > 100
    assert oversold(database)


def test_a_crowd_on_a_slow_disk_never_oversells(database: Database, start: Starter) -> None:
    name = database.psql("select current_database()")[0]
    database.psql(f"alter database {name} set commit_delay = 20000")
    database.psql(f"alter database {name} set commit_siblings = 0")
    urls = [start(database).url for _ in range(2)]
    with start(database).client() as client:
        event = client.create_event(tickets=100)
        before = refused_by_a_constraint(client)
        responses = send_crowd(urls, event, people=2000, connections=200)
        # A batch that the CHECK undoes is tried again by halves, and nobody would notice.
        assert refused_by_a_constraint(client) == before
    assert responses == Counter({(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 1900})


def test_the_check_constraint_refuses_an_oversold_batch(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    guard = "where line.wanted <= line.available_tickets"
    take_out(tmp_path, "reserve_tickets.sql", guard, "where line.wanted > 0")
    service = start(database, sql_dir=tmp_path)
    with service.client() as client:
        event = client.create_event(tickets=1)
        assert client.reserve(event).status_code == 201
        response = client.reserve(event)
        assert (response.status_code, response.json()["code"]) == (500, "INTERNAL_SERVER_ERROR")
        assert "events_never_oversold" not in response.text
        assert client.find_event(event)["allocatedTickets"] == 1
