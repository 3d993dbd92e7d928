"""The audit: finds and names whatever does not add up, in a snapshot, and holds up nobody."""

import json
import threading
from collections.abc import Iterator

import pytest

from tests.support.client import Client, code
from tests.support.commands import holdfast
from tests.support.database import Database
from tests.support.services import Starter

UNKNOWN = "018f0000-0000-7000-8000-000000000001"
LEDGER_OFF = "alter table event_ledger disable trigger event_ledger_is_append_only;"

CORRUPTIONS = {
    "a count too high": (
        "update events set allocated_tickets = allocated_tickets + 1",
        {"allocated = its tickets", "allocated = the ledger's", "allocated = the ledger's sum"},
    ),
    "purchases forgotten": (
        "update events set purchased_tickets = 0",
        {"purchased = its tickets", "purchased = the ledger's", "purchased = the ledger's sum"},
    ),
    "a ticket deleted": (
        "delete from ticket_allocations where status = 'purchased'",
        {"allocated = its tickets", "purchased = its tickets"},
    ),
    "a ticket made by hand": (
        "insert into ticket_allocations (event_id, user_fingerprint, expires_at) "
        "select id, 'mallory', '2040-01-01' from events",
        {"allocated = its tickets"},
    ),
    "a ticket moved to another status": (
        "update ticket_allocations set status = 'refunded' where status = 'purchased'",
        {"allocated = its tickets", "purchased = its tickets"},
    ),
    "sold beyond its capacity": (
        "alter table events drop constraint events_never_oversold; "
        "update events set total_tickets = 1",
        {"no ticket too many", "total = the ledger's"},
    ),
    "a hold without an end": (
        "alter table ticket_allocations drop constraint reserved_tickets_have_an_end; "
        "update ticket_allocations set expires_at = null where status = 'reserved'",
        {"no hold without an end"},
    ),
    "a purchase with an end": (
        "alter table ticket_allocations drop constraint purchased_tickets_have_no_end; "
        "update ticket_allocations set expires_at = '2040-01-01' where status = 'purchased'",
        {"no purchase with an end"},
    ),
    "a version left out": (
        f"{LEDGER_OFF} delete from event_ledger where version = 2",
        {
            "no version is missing",
            "each version follows from the last",
            "allocated = the ledger's sum",
        },
    ),
    "the last version taken back": (
        f"{LEDGER_OFF} delete from event_ledger where version = 3",
        {
            "version = the ledger's",
            "purchased = the ledger's",
            "purchased = the ledger's sum",
        },
    ),
    "the whole ledger gone": (
        f"{LEDGER_OFF} delete from event_ledger",
        {
            "version = the ledger's",
            "total = the ledger's",
            "allocated = the ledger's",
            "purchased = the ledger's",
            "allocated = the ledger's sum",
            "purchased = the ledger's sum",
            "each version follows from the last",
            "no version goes back in time",
        },
    ),
    "history rewritten in between": (
        f"{LEDGER_OFF} update event_ledger set allocated_tickets = 1 where version = 2",
        {"each version follows from the last"},
    ),
    "a time set back": (
        f"{LEDGER_OFF} update event_ledger set recorded_at = '2020-01-01' where version = 2",
        {"no version goes back in time"},
    ),
    "an event's secret gone": (f"{LEDGER_OFF} delete from event_private", {"one secret"}),
}


@pytest.fixture
def sale(unbalanced_database: Database, start: Starter) -> Iterator[tuple[Client, Database, str]]:
    """An event of three tickets, of which one is held and one is sold, and one beside it."""
    with start(unbalanced_database, sweeps=False).client() as client:
        event = client.create_event(tickets=3)
        tickets = client.hold(event, quantity=2)
        client.pay(tickets[0])
        yield client, unbalanced_database, event


def broken(client: Client, event: str) -> set[str]:
    """Return the rules that an event breaks."""
    told = client.audit(event).json()
    failed = {check["name"] for check in told["checks"] if not check["ok"]}
    assert told["ok"] == (not failed)
    return failed


def test_an_event_that_adds_up_is_told_so_with_every_rule(
    sale: tuple[Client, Database, str],
) -> None:
    client, _, event = sale
    told = client.audit(event).json()
    assert told["ok"] is True
    assert len(told["checks"]) == 15
    by_name = {check["name"]: check for check in told["checks"]}
    assert by_name["allocated = its tickets"] == {
        "name": "allocated = its tickets",
        "ok": True,
        "expected": 2,
        "found": 2,
    }
    assert by_name["version = the ledger's"]["found"] == 3


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_is_found_and_named(
    sale: tuple[Client, Database, str], corruption: str
) -> None:
    client, database, event = sale
    sql, rules = CORRUPTIONS[corruption]
    assert broken(client, event) == set()
    database.psql(sql)
    assert broken(client, event) == rules
    # Of all events, the command names this one, and it alone.
    database.psql(
        "insert into events (name, date, total_tickets) values ('In order', '2030-01-01', 5)"
    )
    done = holdfast("audit", "--json", database_url=database.service_dsn)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["ok"], told["events"]) == (False, 2)
    assert {check["name"] for check in told["failed"]} == rules
    assert {check["eventId"] for check in told["failed"]} == {event}


def test_the_audit_of_an_unknown_event_is_not_found(client: Client) -> None:
    assert code(client.audit(UNKNOWN)) == (404, "NOT_FOUND")


def test_the_command_says_in_one_line_that_all_add_up(client: Client, database: Database) -> None:
    client.hold(client.create_event())
    done = holdfast("audit", database_url=database.dsn)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 event(s): all add up\n", "")
    done = holdfast("audit", "--json", database_url=database.dsn)
    assert json.loads(done.stdout) == {"ok": True, "events": 1, "failed": []}


def test_the_command_shows_what_is_wrong_as_a_table(sale: tuple[Client, Database, str]) -> None:
    _, database, event = sale
    database.psql("update events set total_tickets = 7777")
    done = holdfast("audit", database_url=database.dsn)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "7777" in line]
    assert "total = the" in line
    assert done.stdout.endswith("1 event(s): 1 do not add up\n")
    assert event.partition("-")[0] in done.stdout


def test_an_audit_of_many_events_goes_on_from_part_to_part(database: Database) -> None:
    database.psql(
        "insert into events (name, date, total_tickets) "
        "select 'event ' || n, '2030-01-01', 5 from generate_series(1, 1203) as n"
    )
    done = holdfast("audit", database_url=database.dsn)
    assert done.stdout == "1203 event(s): all add up\n"


def test_it_is_right_during_a_sale_and_waits_for_no_lock(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=100_000)
    done = threading.Event()

    def buy() -> None:
        while not done.is_set():
            ticket, *_ = client.hold(event, quantity=3)
            client.pay(ticket)

    crowd = [threading.Thread(target=buy) for _ in range(4)]
    for one in crowd:
        one.start()
    try:
        for _ in range(20):
            assert broken(client, event) == set()
        assert holdfast("audit", database_url=database.dsn).returncode == 0
    finally:
        done.set()
        for one in crowd:
            one.join()
    with database.holding(event):
        assert broken(client, event) == set()
    assert client.event(event)["version"] > 10
