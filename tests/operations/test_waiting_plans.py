"""The plans of the waiting list: a line of ten thousand costs no more than an index explains.

The statements of a change are planned once, while the tables are empty, as in a service that starts
before the sale, and then run on a long line. A read is planned for each request, on tables that
were analyzed meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from service.database.connections import PLAN_OPTIONS
from service.database.migrations import migrate
from tests.support.database import Database, create_database
from tests.support.oldest_postgres import run_oldest_postgres
from tests.support.plans import STATEMENTS, gone_through, nodes, plan_statement
from tests.support.psql_literals import literal

# Two events with a line, the second with a limit for each person: 20 tickets are available, and
# those who were first have got and paid for their offers.
FILL = """
insert into events (
    name, date, total_tickets, allocated_tickets, purchased_tickets, max_tickets_per_person,
    waiting_tickets
)
select
    'line-' || n, '2030-01-01', 1020, 1000, 990, case when n = 2 then 20 end,
    (select sum(1 + m % 10) from generate_series(1, {entries}) as m)
from generate_series(1, 2) as n;

insert into ticket_allocations (event_id, user_fingerprint, status, expires_at, reservation_id)
select
    id,
    name || '-early-' || n,
    (case when n <= 990 then 'purchased' else 'reserved' end)::allocation_status,
    case when n > 990 then '2040-01-01'::timestamptz end,
    md5(name || n)::uuid
from events cross join generate_series(1, 1000) as n;

insert into waiting_entries (event_id, position, user_fingerprint, quantity, reservation_id)
select id, n, name || '-early-' || n, 1, md5(name || n)::uuid
from events cross join generate_series(1, 1000) as n;

insert into waiting_entries (event_id, position, user_fingerprint, quantity)
select id, 1000 + n, name || '-late-' || n, 1 + n % 10
from events cross join generate_series(1, {entries}) as n;
"""

SHORT, LONG = 100, 10_000
# The rows that a step of a statement may go through, and how many entries a page shows.
ROWS, PAGE = 220, 25


@dataclass(frozen=True)
class Line:
    """A database with a line, and a connection on which the statements were prepared before it."""

    database: Database
    connection: psycopg.Connection

    def entries(self, state: str, count: int) -> list[str]:
        """Return the last entries of the first event that wait (late), or had an offer (early)."""
        return self.database.psql(
            "select id from waiting_entries "
            f"where user_fingerprint like 'line-1-{state}-%' order by position desc limit {count}"
        )

    def plan(self, name: str, **changed: Any) -> list[dict[str, Any]]:
        """Run a statement, undo it, and return the nodes of its plan."""
        statement = STATEMENTS[name]
        events = self.database.psql("select id from events order by name")
        values: dict[str, Any] = {
            "event_ids": events,
            "event_id": events[0],
            "ticket_ids": [],
            "reservation_ids": [],
            "quantities": [1, 3],
            "user_fingerprints": ["alice", "bob"],
            "max_entries": 100_000,
            "hold": "900 s",
            "most": 1000,
            "state": "waiting",
            "after": None,
            "page_size": PAGE,
            **changed,
        }
        arguments = psycopg.sql.SQL(", ").join(
            psycopg.sql.Literal(None if values[key] is None else literal(values[key]))
            for key in statement.types
        )
        with self.connection.transaction(force_rollback=True):
            row = self.connection.execute(
                psycopg.sql.SQL(
                    "explain (analyze, buffers, timing off, format json) execute {} ({})"
                ).format(psycopg.sql.Identifier(name), arguments)
            ).fetchone()
        assert row is not None
        return list(nodes(row[0][0]["Plan"]))

    def rows(self, name: str, **changed: Any) -> float:
        """Return how many rows the busiest step of a statement goes through."""
        return max(gone_through(node) for node in self.plan(name, **changed))

    def pages(self, name: str, **changed: Any) -> int:
        """Return how many pages a statement reads."""
        top = self.plan(name, **changed)[0]
        return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


WRITES = ("lock_events", "join_waiting_list", "leave_waiting_list", "offer_tickets")
READS = ("list_lines", "list_waiting_entries", "find_waiting_entries")


@pytest.fixture(scope="module", params=["newest", "15"])
def place(
    request: pytest.FixtureRequest, server: str, template: str, data_dir: Path
) -> Iterator[tuple[str, str]]:
    """A server and a template: of the newest PostgreSQL and of the oldest."""
    if request.param == "newest":
        yield server, template
        return
    with run_oldest_postgres(data_dir / "oldest-lines") as oldest:
        with psycopg.connect(oldest, autocommit=True) as connection:
            connection.execute("create database template_of_lines")
        migrate(make_conninfo(oldest, dbname="template_of_lines"), STATEMENTS)
        yield oldest, "template_of_lines"


@contextmanager
def make_line(
    place: tuple[str, str], entries: int, names: Sequence[str], options: str
) -> Iterator[Line]:
    """Prepare statements in an empty database, and then fill it."""
    with (
        create_database(*place) as database,
        psycopg.connect(database.dsn, options=options, autocommit=True) as connection,
    ):
        # No statistics arrive in the midst of a test.
        for table in ("events", "ticket_allocations", "waiting_entries"):
            database.psql(f"alter table {table} set (autovacuum_enabled = off)")
        for name in names:
            plan_statement(connection, STATEMENTS[name])
        database.psql(FILL.format(entries=entries))
        yield Line(database, connection)


@pytest.fixture(scope="module")
def lines(place: tuple[str, str]) -> Iterator[tuple[Line, Line]]:
    """A short line and a long one, for changes."""
    with (
        make_line(place, SHORT, WRITES, PLAN_OPTIONS) as short,
        make_line(place, LONG, WRITES, PLAN_OPTIONS) as long,
    ):
        yield short, long


@pytest.fixture(scope="module")
def read_lines(place: tuple[str, str]) -> Iterator[tuple[Line, Line]]:
    """A short line and a long one, for reads."""
    options = "-c plan_cache_mode=force_custom_plan"
    with (
        make_line(place, SHORT, READS, options) as short,
        make_line(place, LONG, READS, options) as long,
    ):
        for line in (short, long):
            line.database.psql("analyze")
        yield short, long


def parameters(line: Line, name: str) -> dict[str, Any]:
    """Return what the call of a statement needs beyond the common parameters."""
    if name == "leave_waiting_list":
        (entry,) = line.entries("late", 1)
        (owner,) = line.database.psql(
            f"select user_fingerprint from waiting_entries where id = '{entry}'"
        )
        return {"entry_ids": [entry] * 2, "user_fingerprints": ["mallory", owner]}
    return {}


def compare(short: Line, long: Line, name: str) -> None:
    """Assert that a statement reads hardly more in a long line than in a short one."""
    lines = (short, long)
    for line in lines:
        line.plan(name, **parameters(line, name))  # the first one warms the catalog
        assert line.rows(name, **parameters(line, name)) <= ROWS
    pages = [line.pages(name, **parameters(line, name)) for line in lines]
    assert pages[1] <= pages[0] * 1.5 + 10, pages


@pytest.mark.parametrize("name", WRITES)
def test_a_change_in_a_long_line_costs_no_more_than_its_indexes(
    lines: tuple[Line, Line], name: str
) -> None:
    compare(*lines, name)


@pytest.mark.parametrize("name", ["list_lines", "list_waiting_entries"])
def test_a_list_of_a_long_line_costs_no_more_than_its_indexes(
    read_lines: tuple[Line, Line], name: str
) -> None:
    compare(*read_lines, name)


def test_the_organizers_list_of_open_offers_reads_what_is_held(
    read_lines: tuple[Line, Line],
) -> None:
    for line in read_lines:
        assert line.rows("list_waiting_entries", state="offered") <= ROWS


def test_the_line_that_was_measured_gets_offers(lines: tuple[Line, Line]) -> None:
    _, long = lines
    tickets = [
        node["Plans"][0]["Actual Rows"]
        for node in long.plan("offer_tickets")
        if node["Node Type"] == "ModifyTable" and node["Relation Name"] == "ticket_allocations"
    ]
    # Nearly all of the 20 in each event, or what an entry that blocks the line leaves.
    assert sum(tickets) > 20


def test_all_who_ask_for_their_place_share_one_walk_along_the_line(
    read_lines: tuple[Line, Line],
) -> None:
    _, long = read_lines
    one = long.rows("find_waiting_entries", entry_ids=long.entries("late", 1))
    many = long.rows("find_waiting_entries", entry_ids=long.entries("late", 500))
    # One walk along this line, and on an older PostgreSQL past the other event's, too.
    assert LONG <= one <= many <= 2 * LONG + 2000
    # Those with an offer need no walk.
    assert long.rows("find_waiting_entries", entry_ids=long.entries("early", 100)) <= ROWS


def test_the_test_would_see_a_whole_line_read(lines: tuple[Line, Line]) -> None:
    _, long = lines
    # The line could be full, so it is counted.
    assert long.rows("join_waiting_list", max_entries=LONG) >= LONG
