"""The plans of the waiting list: a line of ten thousand costs no more than an index explains.

The statements of a change are planned once, while the tables are empty, as in a service that starts
before the sale, and then run on a long line. A read is planned for each request, as in the service.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from service.database.connections import PLAN_OPTIONS
from service.database.migrations import migrate
from tests.operations.test_plans import STATEMENTS, gone_through, nodes, plan_statement
from tests.support.database import Database, create_database
from tests.support.oldest_postgres import run_oldest_postgres
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
    """A database with a line, and connections on which its statements were prepared before it."""

    database: Database
    writes: psycopg.Connection
    reads: psycopg.Connection

    def entries(self, state: str, count: int) -> list[str]:
        """Return the first entries of the first event that wait (late), or had an offer (early)."""
        return self.database.psql(
            "select id from waiting_entries "
            f"where user_fingerprint like 'line-1-{state}-%' order by position limit {count}"
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
        connection = self.writes if name in WRITES else self.reads
        with connection.transaction(force_rollback=True):
            row = connection.execute(
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
def lines(
    request: pytest.FixtureRequest, server: str, template: str, data_dir: Path
) -> Iterator[tuple[Line, Line]]:
    """A short line and a long one, on the newest PostgreSQL and on the oldest."""
    with ExitStack() as stack:
        if request.param == "15":
            server = stack.enter_context(run_oldest_postgres(data_dir / "oldest-lines"))
            template = "template_of_lines"
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute("create database template_of_lines")
            migrate(make_conninfo(server, dbname=template), STATEMENTS)
        made = []
        for entries in (SHORT, LONG):
            database = stack.enter_context(create_database(server, template))
            connections = [
                stack.enter_context(psycopg.connect(database.dsn, options=options, autocommit=True))
                for options in (PLAN_OPTIONS, "-c plan_cache_mode=force_custom_plan")
            ]
            # No statistics arrive in the midst of the test.
            for table in ("events", "ticket_allocations", "waiting_entries"):
                database.psql(f"alter table {table} set (autovacuum_enabled = off)")
            for connection, names in zip(connections, (WRITES, READS), strict=True):
                for name in names:
                    plan_statement(connection, STATEMENTS[name])
            database.psql(FILL.format(entries=entries))
            made.append(Line(database, *connections))
        yield made[0], made[1]


def parameters(line: Line, name: str) -> dict[str, Any]:
    """Return what the call of a statement needs beyond the common parameters."""
    if name == "leave_waiting_list":
        (entry,) = line.entries("late", 1)
        return {"entry_ids": [entry] * 2, "user_fingerprints": ["line-1-late-1", "mallory"]}
    return {}


@pytest.mark.parametrize("name", [*WRITES, "list_lines", "list_waiting_entries"])
def test_a_long_line_costs_no_more_than_its_indexes(lines: tuple[Line, Line], name: str) -> None:
    short, long = lines
    for line in lines:
        line.plan(name, **parameters(line, name))  # the first one warms the catalog
    assert long.rows(name, **parameters(long, name)) <= ROWS
    pages = [line.pages(name, **parameters(line, name)) for line in lines]
    assert pages[1] <= pages[0] * 1.5 + 10, pages
    assert short.rows(name, **parameters(short, name)) <= ROWS


def test_the_organizers_list_of_open_offers_reads_what_is_held(lines: tuple[Line, Line]) -> None:
    for line in lines:
        assert line.rows("list_waiting_entries", state="offered") <= ROWS


def test_an_offer_to_many_small_groups_reads_only_those_it_serves(lines: tuple[Line, Line]) -> None:
    _, long = lines
    found = long.plan("offer_tickets")
    inserted = [n for n in found if n["Node Type"] == "ModifyTable" and n["Operation"] == "Insert"]
    offered = sum(n["Actual Rows"] for n in inserted if n["Relation Name"] == "ticket_allocations")
    # All that is available in both events, or what a group that blocks the line leaves.
    assert offered > 20


def test_all_who_ask_for_their_place_share_one_walk_along_the_line(
    lines: tuple[Line, Line],
) -> None:
    _, long = lines
    one = long.rows("find_waiting_entries", entry_ids=long.entries("late", 1))
    many = long.rows("find_waiting_entries", entry_ids=long.entries("late", 500))
    assert LONG <= one <= many <= LONG + 500 * 2
    # Those with an offer need no walk.
    assert long.rows("find_waiting_entries", entry_ids=long.entries("early", 100)) <= ROWS


def test_the_test_would_see_a_whole_line_read(lines: tuple[Line, Line]) -> None:
    _, long = lines
    # The line could be full, so it is counted.
    assert long.rows("join_waiting_list", max_entries=LONG) >= LONG
