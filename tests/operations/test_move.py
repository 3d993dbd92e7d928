"""Moving from another system: its tickets come by COPY, and the books add up, or nothing comes."""

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
    """Return the events and tickets of another system: of every status, with ids and without."""
    chance = random.Random(8)
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
        event = chance.choice(events)
        first, user = len(tickets), f"acct-{chance.randrange(900)}"
        status = chance.choice(["purchased"] * 5 + ["reserved"] * 2 + ["expired", "refunded"])
        quantity = chance.randint(1, 5)
        event["sold"] += quantity * (status == "purchased")
        event["held"] += quantity * (status == "reserved")
        tickets += [
            {
                "old_id": number,
                "id": uuid.UUID(int=2**64 + number) if number % 2 else "",
                "event": event["old_id"],
                # The same name in two events is two reservations.
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


def imported(
    database: Database, folder: Path, events: Rows, tickets: Rows, sql: str | None = None
) -> str:
    """Import as the page does; return what psql said of an error, or ''."""
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
    done = holdfast(
        *("psql", "-1", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(MOVE / "staging.sql")),
        *(*copies, "-f", str(folder / "import.sql")),
        database_url=database.dsn,
    )
    assert bool(done.returncode) == bool(done.stderr), done
    return done.stderr


def test_thousands_of_tickets_move_and_the_books_add_up(
    client: Client, database: Database, tmp_path: Path
) -> None:
    events, tickets = other_system()
    assert imported(database, tmp_path, events, tickets) == ""
    database.adds_up()
    counts = "select name, total_tickets, allocated_tickets, purchased_tickets from events"
    assert set(database.psql(counts)) == {
        f"{one['name']}|{TICKETS}|{one['sold'] + one['held']}|{one['sold']}" for one in events
    }
    moved = "select status, count(*) from ticket_allocations group by 1 order by 1"
    for line in database.psql(moved):
        status, _, count = line.partition("|")
        assert sum(ticket["status"] == status for ticket in tickets) == int(count)
    # The service goes on with them, and the books stay level.
    held = next(one for one in tickets if one["status"] == "reserved" and one["id"])
    assert client.ticket(str(held["id"])).json()["status"] == "reserved"
    assert code(client.pay(str(held["id"]), "mallory")) == (403, "WRONG_FINGERPRINT")
    assert client.pay(str(held["id"]), held["fingerprint"]).status_code == 200
    sold = next(one for one in tickets if one["status"] == "purchased" and one["id"])
    assert code(client.pay(str(sold["id"]), sold["fingerprint"])) == (409, "ALREADY_PURCHASED")
    assert client.refund(str(sold["id"])).json()["status"] == "refunded"


def test_a_key_that_moved_finds_its_reservation(
    client: Client, database: Database, tmp_path: Path
) -> None:
    events, tickets = other_system()
    assert imported(database, tmp_path, events, tickets) == ""
    key, user, event = next(
        (ticket["idempotency_key"], ticket["fingerprint"], str(event["id"]))
        for ticket in tickets
        for event in events
        if ticket["idempotency_key"] and event["id"] and ticket["event"] == event["old_id"]
    )
    whole = [ticket for ticket in tickets if ticket["idempotency_key"] == key]
    answer = client.reserve(event, len(whole), user, key)
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert len(answer.json()) == len(whole)
    kept = [str(ticket["id"]) for ticket in whole if ticket["id"]]
    assert set(kept) <= {ticket["id"] for ticket in answer.json()}


def without_the_last(_: Rows, tickets: Rows) -> None:
    tickets.remove(next(one for one in tickets if one["status"] == "purchased"))


def one_twice(_: Rows, tickets: Rows) -> None:
    tickets.append({**tickets[0]})


def one_too_many(events: Rows, _: Rows) -> None:
    events[0]["total_tickets"] = events[0]["sold"] + events[0]["held"] - 1


def of_no_event(_: Rows, tickets: Rows) -> None:
    tickets[7]["event"] = "e-0"


def of_two_owners(_: Rows, tickets: Rows) -> None:
    next(one for one in tickets if one["reservation"])["fingerprint"] = "mallory"


def not_to_be_sent(_: Rows, tickets: Rows) -> None:
    next(one for one in tickets if not one["reservation"])["fingerprint"] = "Žofie"


def without_an_end(_: Rows, tickets: Rows) -> None:
    next(one for one in tickets if one["status"] == "reserved")["expires_at"] = ""


def of_one_name(events: Rows, _: Rows) -> None:
    events[1] |= {"name": events[0]["name"], "date": events[0]["date"]}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (without_the_last, "by its own count"),
        (one_twice, "moved_tickets_pkey"),
        (one_too_many, "events_never_oversold"),
        (of_no_event, "is not among the events"),
        (of_two_owners, "several owners or keys"),
        (not_to_be_sent, "cannot be sent over HTTP"),
        (without_an_end, "reserved_tickets_have_an_end"),
        (of_one_name, "events_are_unique_by_name_and_date"),
    ],
)
def test_what_does_not_add_up_is_refused_and_leaves_nothing(
    database: Database, tmp_path: Path, spoil: Callable[[Rows, Rows], None], why: str
) -> None:
    events, tickets = other_system()
    spoil(events, tickets)
    assert why in imported(database, tmp_path, events, tickets)
    assert database.psql("select from events union all select from ticket_allocations") == []
    assert imported(database, tmp_path, *other_system()) == ""


def test_what_moved_once_is_refused_when_it_comes_again(database: Database, tmp_path: Path) -> None:
    assert imported(database, tmp_path, *other_system()) == ""
    assert "events_pkey" in imported(database, tmp_path, *other_system())
    assert database.psql("select count(*) from events") == ["20"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("moved.sold + moved.held", "moved.sold"),
        ("purchased_tickets = moved.sold", "purchased_tickets = 0"),
        ("version + 1", "version + 2"),
        ("now.event, 'reserved'", "now.event, 'purchased'"),
    ],
)
def test_an_import_that_counts_wrongly_is_found_by_the_audit(
    unbalanced_database: Database, tmp_path: Path, right: str, wrong: str
) -> None:
    sql = (MOVE / "import.sql").read_text()
    assert right in sql
    sql = sql.replace(right, wrong)
    assert imported(unbalanced_database, tmp_path, *other_system(), sql) == ""
    assert holdfast("audit", database_url=unbalanced_database.dsn).returncode == 1
