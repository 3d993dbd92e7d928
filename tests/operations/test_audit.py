"""The audit finds and names every inconsistency, reads one snapshot, and takes no lock."""

import json
import threading
from collections.abc import Iterator

import pytest

from service import limits
from service.cli.audit import audit, finish_audit
from tests.support.batches import STATEMENTS
from tests.support.client import Client, code
from tests.support.commands import holdfast
from tests.support.database import Database
from tests.support.services import Starter

UNKNOWN = "018f0000-0000-7000-8000-000000000001"
NO_TRIGGERS = "alter table event_ledger disable trigger event_ledger_is_append_only;"

CORRUPTIONS = {
    "the allocated count is too high": (
        "update events set allocated_tickets = allocated_tickets + 1",
        {"allocated = its tickets", "allocated = the ledger's", "allocated = the ledger's sum"},
    ),
    "the purchased count is too low": (
        "update events set purchased_tickets = 0",
        {"purchased = its tickets", "purchased = the ledger's", "purchased = the ledger's sum"},
    ),
    "a ticket was deleted": (
        "delete from ticket_allocations where status = 'purchased'",
        {"allocated = its tickets", "purchased = its tickets"},
    ),
    "a ticket was inserted by hand": (
        "insert into ticket_allocations (event_id, user_fingerprint, expires_at) "
        "select id, 'mallory', '2040-01-01' from events",
        {"allocated = its tickets"},
    ),
    "a ticket has another status": (
        "update ticket_allocations set status = 'refunded' where status = 'purchased'",
        {"allocated = its tickets", "purchased = its tickets"},
    ),
    "the capacity is exceeded": (
        "alter table events drop constraint events_never_oversold; "
        "update events set total_tickets = 1",
        {"no ticket too many", "total = the ledger's"},
    ),
    "a hold has no end": (
        "alter table ticket_allocations drop constraint reserved_tickets_have_an_end; "
        "update ticket_allocations set expires_at = null where status = 'reserved'",
        {"no hold without an end"},
    ),
    "a purchase has an end": (
        "alter table ticket_allocations drop constraint purchased_tickets_have_no_end; "
        "update ticket_allocations set expires_at = '2040-01-01' where status = 'purchased'",
        {"no purchase with an end"},
    ),
    "a version is missing": (
        f"{NO_TRIGGERS} delete from event_ledger where version = 2",
        {
            "no version is missing",
            "each version follows from the last",
            "allocated = the ledger's sum",
        },
    ),
    "the last version is missing": (
        f"{NO_TRIGGERS} delete from event_ledger where version = 3",
        {
            "version = the ledger's",
            "purchased = the ledger's",
            "purchased = the ledger's sum",
        },
    ),
    "the ledger is empty": (
        f"{NO_TRIGGERS} delete from event_ledger",
        {
            "version = the ledger's",
            "total = the ledger's",
            "allocated = the ledger's",
            "purchased = the ledger's",
            "allocated = the ledger's sum",
            "purchased = the ledger's sum",
            "waiting = the ledger's",
            "nobody jumped the line",
            "each version follows from the last",
            "no version goes back in time",
        },
    ),
    "a count in the ledger was changed": (
        f"{NO_TRIGGERS} update event_ledger set allocated_tickets = 1 where version = 2",
        {"each version follows from the last"},
    ),
    "a purchased count in the ledger was changed": (
        f"{NO_TRIGGERS} update event_ledger set purchased_tickets = 1 where version = 2",
        {"each version follows from the last"},
    ),
    "a time in the ledger goes back": (
        f"{NO_TRIGGERS} update event_ledger set recorded_at = '2020-01-01' where version = 2",
        {"no version goes back in time"},
    ),
    "the count of those who wait is too high": (
        "update events set waiting_tickets = 1",
        {"waiting = its entries", "waiting = the ledger's"},
    ),
    "somebody was put into the line by hand": (
        "insert into waiting_entries (event_id, position, user_fingerprint, quantity) "
        "select id, 1, 'mallory', 1 from events",
        {"waiting = its entries"},
    ),
    "an offer is smaller than what was wanted": (
        "insert into waiting_entries (event_id, position, user_fingerprint, quantity, "
        "reservation_id) select event_id, 1, 'alice', 3, reservation_id "
        "from ticket_allocations limit 1",
        {"no offer in part"},
    ),
    "tickets were reserved while somebody waited": (
        f"{NO_TRIGGERS} update event_ledger set waiting_tickets = 1 where version = 2",
        {"nobody jumped the line"},
    ),
    "the secret of an event is missing": (
        f"{NO_TRIGGERS} delete from event_private",
        {"one secret"},
    ),
}


@pytest.fixture
def sale(unbalanced_database: Database, start: Starter) -> Iterator[tuple[Client, Database, str]]:
    """An event with three tickets: one is sold, one held and one available."""
    with start(unbalanced_database, sweeps=False).client() as client:
        event = client.create_event(tickets=3)
        tickets = client.hold(event, quantity=2)
        client.pay(tickets[0])
        yield client, unbalanced_database, event


def failed_checks(client: Client, event: str) -> set[str]:
    """Return the names of the checks that an event fails."""
    audit = client.check_event(event).json()
    failed = {check["name"] for check in audit["checks"] if not check["ok"]}
    assert audit["ok"] == (not failed)
    return failed


def test_an_event_in_order_passes_every_check(
    sale: tuple[Client, Database, str],
) -> None:
    client, _, event = sale
    audit = client.check_event(event).json()
    assert audit["ok"] is True
    assert len(audit["checks"]) == 19
    by_name = {check["name"]: check for check in audit["checks"]}
    assert by_name["allocated = its tickets"] == {
        "name": "allocated = its tickets",
        "ok": True,
        "expected": 2,
        "found": 2,
    }
    assert by_name["version = the ledger's"]["found"] == 3


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_audit_finds_and_names_a_corruption(
    sale: tuple[Client, Database, str], corruption: str
) -> None:
    client, database, event = sale
    sql, names = CORRUPTIONS[corruption]
    assert failed_checks(client, event) == set()
    database.psql(sql)
    assert failed_checks(client, event) == names
    # Among all events, the command names only this one.
    database.psql(
        "insert into events (name, date, total_tickets) values ('In order', '2030-01-01', 5)"
    )
    process = holdfast("audit", "--json", database_url=database.service_dsn)
    assert process.returncode == 1
    report = json.loads(process.stdout)
    assert (report["ok"], report["events"]) == (False, 2)
    assert {check["name"] for check in report["failed"]} == names
    assert {check["eventId"] for check in report["failed"]} == {event}


def test_the_audit_of_an_unknown_event_is_not_found(client: Client) -> None:
    assert code(client.check_event(UNKNOWN)) == (404, "NOT_FOUND")


def test_the_command_reports_success_in_one_line(client: Client, database: Database) -> None:
    client.hold(client.create_event())
    process = holdfast("audit", database_url=database.dsn)
    assert (process.returncode, process.stdout, process.stderr) == (
        0,
        "1 event(s): all add up\n",
        "",
    )
    process = holdfast("audit", "--json", database_url=database.dsn)
    assert json.loads(process.stdout) == {"ok": True, "events": 1, "failed": []}


def test_the_command_prints_failed_checks_as_a_table(sale: tuple[Client, Database, str]) -> None:
    _, database, event = sale
    database.psql("update events set total_tickets = 7777")
    process = holdfast("audit", database_url=database.dsn)
    assert process.returncode == 1
    (line,) = [line for line in process.stdout.splitlines() if "7777" in line]
    assert "total = the" in line
    assert process.stdout.endswith("1 event(s): 1 do not add up\n")
    assert event.partition("-")[0] in process.stdout


def test_the_command_reads_many_events_page_by_page(database: Database) -> None:
    database.psql(
        "insert into events (name, date, total_tickets) "
        "select 'event ' || n, '2030-01-01', 5 from generate_series(1, 1203) as n"
    )
    process = holdfast("audit", database_url=database.dsn)
    assert process.stdout == "1203 event(s): all add up\n"


def test_all_batches_of_an_audit_read_one_snapshot(
    unbalanced_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUDIT_BATCH_EVENTS", 1)
    for name in ("One", "Two"):
        unbalanced_database.insert_event(tickets=2, name=name)
    batches = audit(unbalanced_database.dsn, STATEMENTS)
    next(batches)
    unbalanced_database.psql("update events set total_tickets = 7777")
    assert finish_audit(batches).failed == []


def test_an_audit_during_a_sale_is_correct_and_waits_for_no_lock(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=100_000)
    done = threading.Event()

    def buy() -> None:
        while not done.is_set():
            ticket, *_ = client.hold(event, quantity=3)
            client.pay(ticket)

    buyers = [threading.Thread(target=buy) for _ in range(4)]
    for buyer in buyers:
        buyer.start()
    try:
        for _ in range(20):
            assert failed_checks(client, event) == set()
        assert holdfast("audit", database_url=database.dsn).returncode == 0
    finally:
        done.set()
        for buyer in buyers:
            buyer.join()
    with database.lock_event(event):
        assert failed_checks(client, event) == set()
    assert client.find_event(event)["version"] > 10
