"""The SQL reference matches the headers of the files, their order and their callers."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from service import limits
from service.cli.parser import main
from service.database.statements import load_statements
from service.settings import resource
from service.web.routes import ROUTES
from service.write_path.changes import KINDS_IN_ORDER
from service.write_path.transaction import AFTER, BEFORE
from tests.support.client import Client
from tests.support.database import SERVICE_ROLE, Database, skip_if_pooled
from tests.support.services import Starter, run_service
from tests.support.sql_reference import ENTRY, PAGE, format_entry
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))


def read_page() -> dict[str, tuple[str, str]]:
    """Return the page's entry of each file, and the callers that it names."""
    return {
        match["name"]: (match[0].strip(), " ".join(match["callers"].split()))
        for match in ENTRY.finditer(PAGE.read_text())
    }


def test_the_page_matches_the_headers() -> None:
    """``python -m tests.support.write_sql_reference`` writes the page."""
    entries = read_page()
    # The heading and the callers of a new file are written by hand, the rest by the program.
    assert set(entries) == set(STATEMENTS)
    for name, (text, callers) in entries.items():
        assert text == format_entry(name, callers), (
            "run python -m tests.support.write_sql_reference"
        )


def test_the_page_has_the_order_of_the_statements() -> None:
    table = PAGE.read_text().partition("## The order")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| \d+ \| \[`(\w+)`\]", table, re.M)
    assert listed == [*BEFORE, *(kind.statement for kind in KINDS_IN_ORDER), *AFTER]


class ServerLog:
    """PostgreSQL's log of the statements that run in one database."""

    def __init__(self, data_dir: Path, database: Database) -> None:
        with database.connect() as connection:
            name = connection.info.dbname
            connection.execute(f"alter database {name} set log_statement = 'all'".encode())
        self._database = database
        logs = data_dir.glob("postgresql-*/log/*.log")
        self._file = max(logs, key=lambda file: file.stat().st_mtime)
        self._offset = self._file.stat().st_size
        self._marks = count()

    def read(self) -> set[str]:
        """Return the names of the files that have run since the last call."""
        mark = f"mark {next(self._marks)}"
        self._database.psql(f"select '{mark}'")
        wait_until(lambda: mark.encode() in self._new_part())
        new = self._new_part()
        self._offset += len(new)
        return statement_names(new)

    def wait_for(self, name: str) -> None:
        """Wait until a file has run."""
        wait_until(lambda: name in statement_names(self._new_part()))

    def _new_part(self) -> bytes:
        return self._file.read_bytes()[self._offset :]


def statement_names(log: bytes) -> set[str]:
    """Return the names of the files that have run according to a log."""
    pattern = rb"(?:statement|execute \S+): /\* (\w+) \*/"
    return {name.decode() for name in re.findall(pattern, log)}


def send_requests(client: Client, log: ServerLog) -> Iterator[str]:
    """Send a request to each route, and yield the route after the response."""
    event = client.create_event(tickets=20)
    yield "POST /events"
    client.get("/events")
    yield "GET /events"
    client.find_event(event)
    client.get(f"/events/{event}?at=2090-01-01T00:00:00Z")
    yield "GET /events/{eventId}"
    client.patch(f"/events/{event}", json={"totalTickets": 30}, headers={"If-Match": '"other"'})
    client.update_event(event, totalTickets=30)
    yield "PATCH /events/{eventId}"
    client.list_ledger(event)
    yield "GET /events/{eventId}/ledger"
    client.check_event(event)
    yield "GET /events/{eventId}/audit"
    client.list_event_tickets(event)
    client.list_event_tickets(event, after=event)
    yield "GET /events/{eventId}/tickets"
    paid, cancelled = client.hold(event, 2)
    first, second = [
        client.reserve(event, key=key).json()[0]["reservationId"] for key in ("first", "second")
    ]
    yield "POST /events/{eventId}/tickets"
    client.find_ticket(paid)
    yield "GET /events/tickets/{ticketId}"
    client.pay(paid)
    client.pay_late(paid)
    yield "POST /events/tickets/{ticketId}/payment"
    client.transfer(paid, "bob")
    yield "POST /events/tickets/{ticketId}/transfer"
    client.cancel(cancelled)
    yield "DELETE /events/tickets/{ticketId}/payment"
    client.refund(paid)
    yield "POST /events/tickets/{ticketId}/refund"
    client.find_reservation(first)
    yield "GET /reservations/{reservationId}"
    client.extend_reservation(first)
    yield "POST /reservations/{reservationId}/extension"
    client.pay_reservation(first)
    client.pay_late_reservation(first)
    yield "POST /reservations/{reservationId}/payment"
    client.refund_reservation(first)
    yield "POST /reservations/{reservationId}/refund"
    client.cancel_reservation(second)
    yield "DELETE /reservations/{reservationId}"
    client.list_user_tickets()
    client.list_user_tickets(after=paid)
    yield "GET /tickets"
    client.list_line(event)
    yield "GET /events/{eventId}/waiting"
    entry = client.join_line(event).json()["id"]
    yield "POST /events/{eventId}/waiting"
    client.find_entry(entry)
    yield "GET /waiting/{entryId}"
    client.leave_line(entry)
    yield "DELETE /waiting/{entryId}"
    client.post("/fingerprints")
    yield "POST /fingerprints"
    for path in ("/", "/health", "/health/live", "/metrics", "/docs", "/openapi.json"):
        client.get(path)
        yield f"GET {path}"
    with client.stream("GET", f"/events/{event}/stream"):
        log.wait_for("list_news")
    yield "GET /events/{eventId}/stream"


def pay_while_locked(client: Client, database: Database, log: ServerLog) -> set[str]:
    """Pay while the event is locked; return the statements that only this case needs."""
    event = client.create_event(name="Locked")
    (ticket,) = client.hold(event)
    reservation = client.reserve(event).json()[0]["reservationId"]
    log.read()
    with ThreadPoolExecutor() as pool:
        with database.lock_event(event):
            payments = [pool.submit(client.pay, ticket)]
            log.wait_for("find_unlocked_events")
            payments += [pool.submit(client.pay_reservation, reservation)]
            log.wait_for("find_reservations")
        assert [payment.result().status_code for payment in payments] == [200, 200]
    return log.read() - {*BEFORE, "pay_tickets"}


def offer_what_was_released(client: Client, log: ServerLog) -> set[str]:
    """Cancel a ticket that somebody waits for; return the statement that only this needs."""
    event = client.create_event(name="With a line", tickets=1)
    (ticket,) = client.hold(event, user="owen")
    client.join_line(event)
    log.read()
    client.cancel(ticket, "owen")
    log.wait_for("offer_tickets")
    return log.read() & {"offer_tickets"}


def wait_without_a_response(
    client: Client, database: Database, log: ServerLog, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """Update an event that is locked for too long; return the statement that only this needs."""
    monkeypatch.setattr(limits, "GIVE_UP_SECONDS", 0.1)
    event = client.create_event(name="Silent")
    with database.lock_event(event):
        client.update_event(event, totalTickets=5)
        log.wait_for("count_waiting_commits")
    return log.read() & {"count_waiting_commits"}


@skip_if_pooled("each read begins with limit_waits")
def test_the_page_names_the_callers_of_each_file(
    database: Database, data_dir: Path, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL logs each statement; those of the service carry the names of their files."""
    log = ServerLog(data_dir, database)
    statements_by_caller: dict[str, set[str]] = {}
    with start(database, sweeps=False).client() as client:
        log.wait_for("list_due_events")
        statements_by_caller["the sweeper"] = log.read()
        for route in send_requests(client, log):
            statements_by_caller[f"`{route}`"] = log.read()
        every_change = {
            route for route, files in statements_by_caller.items() if "expire_tickets" in files
        }
        statements_by_caller["the write path while an event is locked"] = pay_while_locked(
            client, database, log
        )
        statements_by_caller["the write path after tickets were released"] = (
            offer_what_was_released(client, log)
        )
        statements_by_caller["a write without a response"] = wait_without_a_response(
            client, database, log, monkeypatch
        )
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    for arguments in (["migrate"], ["audit"], ["grant", SERVICE_ROLE], ["forget", "alice"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(arguments)
        statements_by_caller[f"`holdfast {arguments[0]}`"] = log.read()
    with run_service(database):
        statements_by_caller["`holdfast serve`"] = log.read() - statements_by_caller["the sweeper"]

    routes = {f"`{method} {path}`" for path, methods in ROUTES.items() for method in methods}
    assert routes <= statements_by_caller.keys()
    for name, (_, callers) in read_page().items():
        actual = {caller for caller, files in statements_by_caller.items() if name in files}
        if actual >= every_change:
            actual = actual - every_change | {"every change"}
        assert set(callers.split(", ")) == (actual or {"nobody"}), (
            f"{name}: correct the callers by hand in {PAGE}"
        )
