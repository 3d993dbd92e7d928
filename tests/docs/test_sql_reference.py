"""The SQL files as a document: what their headers say, in order, and who really runs them."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from service.cli.parser import main
from service.database.statements import load_statements
from service.settings import resource
from service.web.routes import ROUTES
from service.write_path.changes import IN_ORDER
from service.write_path.transaction import AFTER, BEFORE
from tests.support.client import Client
from tests.support.database import SERVICE_ROLE, Database, not_pooled
from tests.support.services import Starter, serving
from tests.support.sql_reference import ENTRY, PAGE, entry
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))


def entries() -> dict[str, tuple[str, str]]:
    """Return what the page says of each file, and who calls it by that."""
    return {
        found["name"]: (found[0].strip(), " ".join(found["callers"].split()))
        for found in ENTRY.finditer(PAGE.read_text())
    }


def test_the_page_says_what_the_headers_say() -> None:
    """Write it anew with ``python -m tests.support.write_sql_reference``."""
    told = entries()
    # A new file's entry begins with its heading and its callers, by hand; the rest is written.
    assert set(told) == set(STATEMENTS)
    for name, (text, callers) in told.items():
        assert text == entry(name, callers), "run python -m tests.support.write_sql_reference"


def test_the_page_has_the_order_in_which_a_transaction_runs_them() -> None:
    table = PAGE.read_text().partition("## The order")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| \d+ \| \[`(\w+)`\]", table, re.M)
    assert listed == [*BEFORE, *(kind.statement for kind in IN_ORDER), *AFTER]


class ServerLog:
    """What PostgreSQL logs of the statements that run in one database."""

    def __init__(self, data_dir: Path, database: Database) -> None:
        with database.connect() as connection:
            name = connection.info.dbname
            connection.execute(f"alter database {name} set log_statement = 'all'".encode())
        self._database = database
        logs = data_dir.glob("postgresql-*/log/*.log")
        self._file = max(logs, key=lambda file: file.stat().st_mtime)
        self._read = self._file.stat().st_size
        self._marks = count()

    def told(self) -> set[str]:
        """Return the names of the files that have run since this was asked last."""
        mark = f"mark {next(self._marks)}"
        self._database.psql(f"select '{mark}'")
        wait_until(lambda: mark.encode() in self._new())
        new = self._new()
        self._read += len(new)
        return names(new)

    def wait_for(self, name: str) -> None:
        """Wait until a file has run."""
        wait_until(lambda: name in names(self._new()))

    def _new(self) -> bytes:
        return self._file.read_bytes()[self._read :]


def names(log: bytes) -> set[str]:
    """Return the names of the files that have run, by a log."""
    return {
        found.decode() for found in re.findall(rb"(?:statement|execute \S+): /\* (\w+) \*/", log)
    }


def requests(client: Client, log: ServerLog) -> Iterator[str]:
    """Send a request to each route; yield the route when it is answered."""
    event = client.create_event(tickets=20)
    yield "POST /events"
    client.get("/events")
    yield "GET /events"
    client.event(event)
    client.get(f"/events/{event}?at=2090-01-01T00:00:00Z")
    yield "GET /events/{id}"
    client.update_event(event, totalTickets=30)
    yield "PATCH /events/{id}"
    client.ledger(event)
    yield "GET /events/{id}/ledger"
    client.audit(event)
    yield "GET /events/{id}/audit"
    client.event_tickets(event)
    yield "GET /events/{id}/tickets"
    paid, given = client.hold(event, 2)
    first, second = [
        client.reserve(event, key=key).json()[0]["reservationId"] for key in ("first", "second")
    ]
    yield "POST /events/{id}/tickets"
    client.ticket(paid)
    yield "GET /events/tickets/{id}"
    client.pay(paid)
    yield "POST /events/tickets/{id}/payment"
    client.cancel(given)
    yield "DELETE /events/tickets/{id}/payment"
    client.refund(paid)
    yield "POST /events/tickets/{id}/refund"
    client.reservation(first)
    yield "GET /reservations/{id}"
    client.pay_reservation(first)
    yield "POST /reservations/{id}/payment"
    client.cancel_reservation(second)
    yield "DELETE /reservations/{id}"
    client.user_tickets()
    yield "GET /tickets"
    client.post("/fingerprints")
    yield "POST /fingerprints"
    for path in ("/", "/health", "/health/live", "/metrics", "/docs", "/openapi.json"):
        client.get(path)
        yield f"GET {path}"
    with client.stream("GET", f"/events/{event}/stream"):
        log.wait_for("list_news")
    yield "GET /events/{id}/stream"


def meet_a_locked_event(client: Client, database: Database, log: ServerLog) -> set[str]:
    """Pay while somebody holds the event; return what that asks beyond what it does."""
    event = client.create_event(name="Locked")
    (ticket,) = client.hold(event)
    reservation = client.reserve(event).json()[0]["reservationId"]
    log.told()
    with ThreadPoolExecutor() as pool:
        with database.holding(event):
            paid = [pool.submit(client.pay, ticket)]
            log.wait_for("find_unlocked_events")
            paid += [pool.submit(client.pay_reservation, reservation)]
            log.wait_for("find_reservations")
        assert [one.result().status_code for one in paid] == [200, 200]
    return log.told() - {*BEFORE, "pay_tickets"}


@not_pooled("each read begins with limit_waits")
def test_the_page_says_who_calls_each_file(
    database: Database, data_dir: Path, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL itself is asked: it logs each statement, and ours carry their names."""
    log = ServerLog(data_dir, database)
    ran: dict[str, set[str]] = {}
    with start(database, sweeps=False).client() as client:
        log.wait_for("list_due_events")
        ran["the sweeper"] = log.told()
        for route in requests(client, log):
            ran[f"`{route}`"] = log.told()
        every_change = {route for route, files in ran.items() if "expire_tickets" in files}
        ran["the write path while an event is locked"] = meet_a_locked_event(client, database, log)
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    for arguments in (["migrate"], ["audit"], ["grant", SERVICE_ROLE], ["forget", "alice"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(arguments)
        ran[f"`holdfast {arguments[0]}`"] = log.told()
    with serving(database):
        ran["`holdfast serve`"] = log.told() - ran["the sweeper"]

    routes = {f"`{method} {path}`" for path, methods in ROUTES.items() for method in methods}
    assert routes <= ran.keys()
    for name, (_, callers) in entries().items():
        by = {caller for caller, files in ran.items() if name in files}
        if by >= every_change:
            by = by - every_change | {"every change"}
        assert set(callers.split(", ")) == (by or {"nobody"}), (
            f"{name}: correct it by hand in {PAGE}"
        )
