"""Moving from another system: COPY imports its tickets consistently, or imports nothing."""

import csv
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, code
from tests.support.commands import holdfast
from tests.support.database import Database
from tests.support.paths import ROOT

MOVE = ROOT / "docs" / "how-to" / "move"
TICKETS = 4000
Rows = list[dict[str, Any]]


def other_system() -> tuple[Rows, Rows]:
    """Return events and tickets of another system, in every status, with and without ids."""
    generator = random.Random(8)
    events: Rows = [
        {
            "old_id": f"e-{number}",
            "id": uuid.UUID(int=number) if number % 2 else "",
            "name": f"Night {number}",
            "date": f"2030-01-{number:02} 20:00+00",
            "total_tickets": TICKETS,
            "sold": 0,
            "held": 0,
        }
        for number in range(1, 21)
    ]
    tickets: Rows = []
    while len(tickets) < TICKETS:
        event = generator.choice(events)
        first, user = len(tickets), f"acct-{generator.randrange(900)}"
        status = generator.choice(["purchased"] * 5 + ["reserved"] * 2 + ["expired", "refunded"])
        quantity = generator.randint(1, 5)
        event["sold"] += quantity * (status == "purchased")
        event["held"] += quantity * (status == "reserved")
        tickets += [
            {
                "old_id": number,
                "id": uuid.UUID(int=2**64 + number) if number % 2 else "",
                "event": event["old_id"],
                # The same reservation name in two events means two reservations.
                "reservation": f"r-{first % 1000}-{user}" if quantity > 1 else "",
                "fingerprint": user,
                "idempotency_key": f"order-{first}" if first % 3 else "",
                "status": status,
                "expires_at": "2031-01-01 00:00+00" if status != "purchased" else "",
                "created_at": f"2026-01-01 10:{number % 60:02}+01",
            }
            for number in range(first, first + quantity)
        ]
    return events, tickets


def import_rows(
    database: Database, folder: Path, events: Rows, tickets: Rows, sql: str | None = None
) -> str:
    """Import with the commands of the page; return psql's error message, or ''."""
    for name, rows in (("events", events), ("tickets", tickets)):
        with (folder / f"{name}.csv").open("w") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (folder / "import.sql").write_text(sql or (MOVE / "import.sql").read_text())
    copies = [
        f"-c\\copy moved_{name} from '{folder}/{name}.csv' with (format csv, header match)"
        for name in ("events", "tickets")
    ]
    process = holdfast(
        *("psql", "-1", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(MOVE / "staging.sql")),
        *(*copies, "-f", str(folder / "import.sql")),
        database_url=database.dsn,
    )
    assert bool(process.returncode) == bool(process.stderr), process
    return process.stderr


def test_thousands_of_tickets_are_imported_and_the_books_add_up(
    client: Client, database: Database, tmp_path: Path
) -> None:
    events, tickets = other_system()
    assert import_rows(database, tmp_path, events, tickets) == ""
    database.check_books()
    counts = "select name, total_tickets, allocated_tickets, purchased_tickets from events"
    assert set(database.psql(counts)) == {
        f"{event['name']}|{TICKETS}|{event['sold'] + event['held']}|{event['sold']}"
        for event in events
    }
    count_by_status = "select status, count(*) from ticket_allocations group by 1 order by 1"
    for line in database.psql(count_by_status):
        status, _, count = line.partition("|")
        assert sum(ticket["status"] == status for ticket in tickets) == int(count)
    # The service works with the imported tickets, and the books stay consistent.
    held = next(ticket for ticket in tickets if ticket["status"] == "reserved" and ticket["id"])
    assert client.find_ticket(str(held["id"])).json()["status"] == "reserved"
    assert code(client.pay(str(held["id"]), "mallory")) == (403, "WRONG_FINGERPRINT")
    assert client.pay(str(held["id"]), held["fingerprint"]).status_code == 200
    sold = next(ticket for ticket in tickets if ticket["status"] == "purchased" and ticket["id"])
    assert code(client.pay(str(sold["id"]), sold["fingerprint"])) == (409, "ALREADY_PURCHASED")
    assert client.refund(str(sold["id"])).json()["status"] == "refunded"


def test_an_imported_key_finds_its_reservation(
    client: Client, database: Database, tmp_path: Path
) -> None:
    events, tickets = other_system()
    assert import_rows(database, tmp_path, events, tickets) == ""
    key, user, event = next(
        (ticket["idempotency_key"], ticket["fingerprint"], str(event["id"]))
        for ticket in tickets
        for event in events
        if ticket["idempotency_key"] and event["id"] and ticket["event"] == event["old_id"]
    )
    reservation = [ticket for ticket in tickets if ticket["idempotency_key"] == key]
    response = client.reserve(event, len(reservation), user, key)
    assert response.headers["Idempotency-Replayed"] == "true"
    assert len(response.json()) == len(reservation)
    ids = [str(ticket["id"]) for ticket in reservation if ticket["id"]]
    assert set(ids) <= {ticket["id"] for ticket in response.json()}


def remove_a_ticket(_: Rows, tickets: Rows) -> None:
    tickets.remove(next(ticket for ticket in tickets if ticket["status"] == "purchased"))


def duplicate_a_ticket(_: Rows, tickets: Rows) -> None:
    tickets.append({**tickets[0]})


def exceed_the_capacity(events: Rows, _: Rows) -> None:
    events[0]["total_tickets"] = events[0]["sold"] + events[0]["held"] - 1


def name_an_unknown_event(_: Rows, tickets: Rows) -> None:
    tickets[7]["event"] = "e-0"


def give_a_reservation_two_owners(_: Rows, tickets: Rows) -> None:
    next(ticket for ticket in tickets if ticket["reservation"])["fingerprint"] = "mallory"


def use_a_fingerprint_outside_ascii(_: Rows, tickets: Rows) -> None:
    next(ticket for ticket in tickets if not ticket["reservation"])["fingerprint"] = "Žofie"


def remove_the_end_of_a_hold(_: Rows, tickets: Rows) -> None:
    next(ticket for ticket in tickets if ticket["status"] == "reserved")["expires_at"] = ""


def duplicate_an_event(events: Rows, _: Rows) -> None:
    events[1] |= {"name": events[0]["name"], "date": events[0]["date"]}


@pytest.mark.parametrize(
    ("corrupt", "error"),
    [
        (remove_a_ticket, "by its own count"),
        (duplicate_a_ticket, "moved_tickets_pkey"),
        (exceed_the_capacity, "events_never_oversold"),
        (name_an_unknown_event, "is not among the events"),
        (give_a_reservation_two_owners, "several owners or keys"),
        (use_a_fingerprint_outside_ascii, "cannot be sent over HTTP"),
        (remove_the_end_of_a_hold, "reserved_tickets_have_an_end"),
        (duplicate_an_event, "events_are_unique_by_name_and_date"),
    ],
)
def test_an_inconsistent_import_is_refused_as_a_whole(
    database: Database, tmp_path: Path, corrupt: Callable[[Rows, Rows], None], error: str
) -> None:
    events, tickets = other_system()
    corrupt(events, tickets)
    assert error in import_rows(database, tmp_path, events, tickets)
    assert database.psql("select from events union all select from ticket_allocations") == []
    assert import_rows(database, tmp_path, *other_system()) == ""


def test_a_second_import_of_the_same_data_is_refused(database: Database, tmp_path: Path) -> None:
    assert import_rows(database, tmp_path, *other_system()) == ""
    assert "events_pkey" in import_rows(database, tmp_path, *other_system())
    assert database.psql("select count(*) from events") == ["20"]


@pytest.mark.parametrize(
    ("original", "replacement"),
    [
        ("moved.sold + moved.held", "moved.sold"),
        ("purchased_tickets = moved.sold", "purchased_tickets = 0"),
        ("version + 1", "version + 2"),
        ("    reserved, last_event", "    purchased, last_event"),
    ],
)
def test_the_audit_finds_an_import_with_wrong_counts(
    unbalanced_database: Database, tmp_path: Path, original: str, replacement: str
) -> None:
    sql = (MOVE / "import.sql").read_text()
    assert original in sql
    sql = sql.replace(original, replacement)
    assert import_rows(unbalanced_database, tmp_path, *other_system(), sql) == ""
    assert holdfast("audit", database_url=unbalanced_database.dsn).returncode == 1
