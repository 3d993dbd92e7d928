"""The plans: every statement of the hot path uses its index, however large the table is."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from service.database.connections import PLAN_OPTIONS
from service.database.migrations import migrate
from service.database.statements import Statement, Statements, load_statements
from service.settings import resource
from tests.support.database import Database, create_database
from tests.support.oldest_postgres import run_oldest_postgres
from tests.support.plans import STATEMENTS, execute, gone_through, nodes, plan_statement
from tests.support.psql_literals import literal

TICKETS_PER_EVENT = 200

# As after a sale: most are sold, some lapsed or came back, a few are held, one of them too long.
FILL = """
insert into events (
    name, date, total_tickets, allocated_tickets, purchased_tickets, max_tickets_per_person
)
select
    'event-' || n, '2030-01-01'::timestamptz + n * interval '1 h', 300, 160, 150,
    case when n % 2 = 0 then 4 end
from generate_series(1, {events}) as n;

insert into ticket_allocations (event_id, user_fingerprint, status, expires_at)
select
    events.id,
    'user-' || n || '-of-' || events.name,
    case
        when n <= 150 then 'purchased'
        when n <= 160 then 'reserved'
        when n <= 180 then 'expired'
        else 'user_cancelled'
    end::allocation_status,
    case
        when n = 160 then '2020-01-01'::timestamptz
        when n > 150 then '2040-01-01'
    end
from events
cross join generate_series(1, 200) as n
where events.name like 'event-%'
order by events.date, n; -- else the order depends on the plan, and that on the width of a row

vacuum analyze;
"""

USERS = ["user-1-of-event-1", "user-151-of-event-1", "user-190-of-event-1"]

HOT = [
    "lock_events",
    "expire_tickets",
    "cancel_tickets",
    "refund_tickets",
    "pay_tickets",
    "reacquire_tickets",
    "transfer_tickets",
    "extend_reservations",
    "reserve_tickets",
    "find_replays",
    "find_events",
    "find_tickets",
    "find_reservations",
    "list_user_tickets",
    "list_event_tickets",
    "list_user_tickets_after",
    "list_event_tickets_after",
    "list_held_tickets",
    "list_ledger",
    "find_ledger_at",
    "list_news",
]


@pytest.fixture(scope="module")
def small(server: str, template: str) -> Iterator[Database]:
    """Twenty thousand tickets over a hundred events."""
    with create_database(server, template) as database:
        database.psql(FILL.format(events=100))
        yield database


@pytest.fixture(scope="module")
def large(server: str, template: str) -> Iterator[Database]:
    """Two hundred thousand tickets over a thousand events."""
    with create_database(server, template) as database:
        database.psql(FILL.format(events=1000))
        yield database


def parameters(database: Database, name: str) -> dict[str, str]:
    """Return parameters that concern two events and some of their tickets, as text."""
    events = database.psql("select id from events where name like 'event-%' order by date limit 2")
    tickets = database.psql(
        "select id from ticket_allocations where event_id = "
        f"'{events[0]}' and user_fingerprint = any('{{{','.join(USERS)}}}')"
    )
    reservations = database.psql(
        f"select reservation_id from ticket_allocations where id = '{tickets[1]}'"
    )
    values: dict[str, Any] = {
        "failed_only": True,
        "after": 0,
        "at": "2040-01-01 00:00+00",
        "versions": [0, 0],
        "event_ids": events,
        "event_id": events[0],
        "ticket_ids": tickets,
        "reservation_ids": reservations,
        "user_fingerprints": USERS,
        "user_fingerprint": USERS[0],
        "quantities": [1, 2],
        "idempotency_keys": ["k", ""],
        "hold": "900 s",
        "hold_seconds": 900,
        "max_hold_seconds": 1800,
        "resale": [True, False],
        "most": 1000,
        "status": "",
        "page_size": 10,
        "skip": 0,
    }
    if name in ("pay_tickets", "cancel_tickets"):
        values["ticket_ids"] = [tickets[0], None, tickets[2]]
        values["reservation_ids"] = [None, reservations[0], None]
    if name == "refund_tickets":
        values["ticket_ids"] = [tickets[0], None]
        values["reservation_ids"] = [None, reservations[0]]
    if name == "reacquire_tickets":
        # Of the second event, which has a limit: two expired tickets and a hold.
        values["user_fingerprints"] = [f"user-{n}-of-event-2" for n in (161, 162, 151)]
        lapsed, other, held = tickets_of(database, values["user_fingerprints"])
        whole = database.psql(f"select reservation_id from ticket_allocations where id = '{other}'")
        values["ticket_ids"] = [lapsed, None, held]
        values["reservation_ids"] = [None, *whole, None]
    if name == "transfer_tickets":
        # Likewise: a purchase and a hold.
        values["user_fingerprints"] = [f"user-{n}-of-event-2" for n in (1, 151)]
        values["ticket_ids"] = tickets_of(database, values["user_fingerprints"])
        values["new_user_fingerprints"] = ["user-2-of-event-2", "alice"]
    if name == "extend_reservations":
        values["user_fingerprints"] = USERS[:1]
    if name in ("list_user_tickets_after", "list_event_tickets_after"):
        (values["after"],) = database.psql(
            f"select id from ticket_allocations where user_fingerprint = '{USERS[0]}'"
        )
    if name in ("reserve_tickets", "find_replays"):
        # The second event has a limit.
        values["event_ids"] = [events[0], events[1], events[1]]
        values["quantities"] = [1, 2, 1]
        values["user_fingerprints"] = ["alice", "bob", "carol"]
        values["idempotency_keys"] = ["k", "", ""]
    return {key: literal(values[key]) for key in STATEMENTS[name].types}


def tickets_of(database: Database, users: Sequence[str]) -> list[str]:
    """Return the ticket of each user."""
    return [
        database.psql(f"select id from ticket_allocations where user_fingerprint = '{user}'")[0]
        for user in users
    ]


def explained(database: Database, name: str, options: str) -> dict[str, Any]:
    """Return the plan that a prepared statement is carried out by, undone."""
    statement = STATEMENTS[name]
    given = parameters(database, name)
    with psycopg.connect(
        database.dsn, options=options or "-c plan_cache_mode=force_generic_plan"
    ) as connection:
        connection.execute(b"prepare hot as " + statement.numbered)
        arguments = psycopg.sql.SQL(", ").join(
            psycopg.sql.Literal(given[key]) for key in statement.types
        )
        call = psycopg.sql.SQL("execute hot {}").format(
            psycopg.sql.SQL("({})").format(arguments) if given else psycopg.sql.SQL("")
        )
        row = connection.execute(
            psycopg.sql.SQL("explain (analyze, buffers, timing off, format json) {}").format(call)
        ).fetchone()
        connection.rollback()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


@pytest.mark.parametrize("name", HOT)
def test_no_statement_of_the_hot_path_reads_all_tickets(large: Database, name: str) -> None:
    # With the planner's own choice, and as the connections of the write path have it.
    for options in ("", PLAN_OPTIONS):
        plan = explained(large, name, options)
        whole = [
            node
            for node in nodes(plan)
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "ticket_allocations"
        ]
        assert not whole, json.dumps(whole, indent=2)


@pytest.mark.parametrize("name", HOT)
def test_its_cost_does_not_grow_with_the_table(small: Database, large: Database, name: str) -> None:
    def pages(database: Database) -> int:
        explained(database, name, PLAN_OPTIONS)  # the first one warms the catalog
        plan = explained(database, name, PLAN_OPTIONS)
        return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])

    # Ten times the tickets: a level more in each index, and no more than that.
    assert pages(large) <= pages(small) * 1.5 + 10


def test_an_audit_of_one_event_reads_no_other(large: Database) -> None:
    plan = explained(large, "check_events", "-c plan_cache_mode=force_custom_plan")
    assert int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"]) < 500
    (held,) = large.psql("select count(*) from ticket_allocations where status = 'reserved'")
    assert int(held) == 10_000  # there would have been more to read


def test_the_test_would_see_a_whole_table_read(large: Database) -> None:
    plan = explained(large, "check_events", "-c plan_cache_mode=force_generic_plan")
    assert "ticket_allocations" in {
        node.get("Relation Name") for node in nodes(plan) if "Scan" in node["Node Type"]
    }
    assert int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"]) > 1000


# The night before a sale: seasons of sold tickets, and nobody holds one.
SEASONS = """
insert into events (name, date, total_tickets, allocated_tickets, purchased_tickets)
select 'season-' || n, '2020-01-01', 200, 150, 150 from generate_series(1, 100) as n;

insert into ticket_allocations (event_id, user_fingerprint, status)
select id, name || n, (case when n <= 150 then 'purchased' else 'expired' end)::allocation_status
from events cross join generate_series(1, 200) as n;
"""

# The midst of a sale with short holds: all tickets are of one event of many, and since those that
# are over have expired, the statistics say that what is held is due.
HOT_EVENT = """
insert into events (name, date, total_tickets, allocated_tickets)
select 'hot-' || n, '2030-01-01', 100000, case n when 1 then 20000 else 0 end
from generate_series(1, 200) as n;

insert into ticket_allocations (event_id, user_fingerprint, status, expires_at)
select
    id,
    name || n,
    (case when n <= 20000 then 'reserved' else 'expired' end)::allocation_status,
    case when n <= 20000 then '2040-01-01' else '2020-01-01' end::timestamptz
from events cross join generate_series(1, 30000) as n
where name = 'hot-1';
"""

# The first minute of a sale: every ticket is held, and every hold is due soon.
ALL_HELD = """
insert into events (name, date, total_tickets, allocated_tickets)
select 'held-' || n, '2030-01-01', 200, 200 from generate_series(1, 100) as n;

insert into ticket_allocations (event_id, user_fingerprint, expires_at)
select id, name || n, '2020-01-01'::timestamptz + n * interval '1 s'
from events cross join generate_series(1, 200) as n;
"""

# Without the triggers, which would take most of the time.
MANY_EVENTS = """
set session_replication_role = replica;

insert into events (name, date, total_tickets, allocated_tickets)
select 'many-' || n, '2030-01-01', 1, 1 from generate_series(1, 100000) as n;

insert into event_private (event_id) select id from events;

insert into ticket_allocations (event_id, user_fingerprint, status)
select id, name, 'purchased' from events;
"""

# A shop that sends one fingerprint for everybody: by the statistics, each person has all tickets.
ONE_PERSON = """
insert into events (name, date, total_tickets, allocated_tickets, purchased_tickets)
select 'one-' || n, '2030-01-01', 10000, 10000, 10000 from generate_series(1, 2) as n;

insert into ticket_allocations (event_id, user_fingerprint, status)
select id, 'shop', 'purchased' from events cross join generate_series(1, 10000) as n;
"""

BEFORE = {
    "empty tables": "",
    "the night before": SEASONS,
    "the midst of a sale": HOT_EVENT,
    "all held": ALL_HELD,
    "100,000 events": MANY_EVENTS,
    "one person": ONE_PERSON,
}
# What a newcomer may do to the schema: the planner reckons with wider rows.
WIDER = {
    "as migrated": "",
    "a wider event": "alter table events add column venue text",
    "a wider ticket": "alter table ticket_allocations add column seat text",
}
EVENTS = 250
ROWS = 220
"""More than the tickets of one event (200), and fewer than there are events."""


class States:
    """Databases of one server in the states of BEFORE, each made once and then cloned."""

    def __init__(self, server: str, template: str) -> None:
        self._server, self._template = server, template
        self._open = ExitStack()
        self._made: dict[str, str] = {}

    def clone(self, before: str) -> AbstractContextManager[Database]:
        """Return a database in a state, for as long as the block runs."""
        if before not in self._made:
            database = self._open.enter_context(create_database(self._server, self._template))
            stay = "set (autovacuum_enabled = off)"
            database.psql(f"alter table ticket_allocations {stay}; alter table events {stay}")
            if BEFORE[before]:
                database.psql(f"{BEFORE[before]}; vacuum analyze")
            self._made[before] = database.psql("select current_database()")[0]
        return create_database(self._server, self._made[before])

    def close(self) -> None:
        """Drop them all."""
        self._open.close()


@pytest.fixture(scope="module", params=["newest", "15"])
def states(
    request: pytest.FixtureRequest, server: str, template: str, data_dir: Path
) -> Iterator[States]:
    """The states, on the newest PostgreSQL and on the oldest: they plan differently."""
    with ExitStack() as stack:
        if request.param == "15":
            server = stack.enter_context(run_oldest_postgres(data_dir / "oldest"))
            template = "template_of_tests"
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute("create database template_of_tests")
            migrate(make_conninfo(server, dbname=template), STATEMENTS)
        states = States(server, template)
        stack.callback(states.close)
        yield states


@pytest.mark.parametrize("wider", WIDER)
@pytest.mark.parametrize("before", BEFORE)
def test_a_plan_made_before_the_sale_reads_only_the_rows_it_needs(
    states: States, before: str, wider: str
) -> None:
    """As in a service that starts before the sale and plans once: nobody has analysed since."""
    # Lists are planned for each request, and would be planned badly only for the one person.
    names = [name for name in HOT if before != "one person" or not name.startswith("list_")]
    for name, node in rows_read(states, STATEMENTS, names, before, wider):
        assert gone_through(node) <= ROWS, (name, json.dumps(node))


def rows_read(
    states: States, statements: Statements, names: Sequence[str], before: str, wider: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Plan statements in one state of a database, run them in another, and yield each plan node."""
    with states.clone(before) as database:
        database.psql(WIDER[wider])
        with psycopg.connect(database.dsn, options=PLAN_OPTIONS, autocommit=True) as connection:
            for name in names:
                plan_statement(connection, statements[name])
            database.psql(FILL.format(events=EVENTS).replace("vacuum analyze;", ""))
            for name in names:
                for node in nodes(run_planned(connection, database, statements[name])):
                    yield name, node


def run_planned(
    connection: psycopg.Connection, database: Database, statement: Statement
) -> dict[str, Any]:
    """Run a statement by the plan that was made before, undo it, and return the plan."""
    given = parameters(database, statement.name)
    arguments = [psycopg.sql.Literal(given[key]) for key in statement.types]
    with connection.transaction(force_rollback=True):
        row = connection.execute(
            psycopg.sql.SQL("explain (analyze, timing off, format json) {}").format(
                execute(statement.name, arguments)
            )
        ).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


@dataclass(frozen=True)
class Cure:
    """Parts of a statement that keep the planner from reading too much, in one state at least."""

    statement: str
    before: str
    # Each part, and what would stand there without the cure.
    parts: Sequence[tuple[str, str]]


OF_THE_EVENT = (
    "(tickets.event_id = limited.event_id) is true",
    "tickets.event_id = limited.event_id",
)
WITH_THE_STATUS = (
    """(
                status_at(tickets.status, tickets.expires_at, statement_timestamp())
                in ('reserved', 'purchased')
            ) is true""",
    """tickets.status in ('reserved', 'purchased')
            and status_at(tickets.status, tickets.expires_at, statement_timestamp()) <> 'expired'
            """,
)
CURES = {
    "due holds": Cure(
        "expire_tickets",
        "the night before",
        [
            ("tickets.held_event_id = batch", "tickets.event_id = batch"),
            (
                "tickets.held_until <= statement",
                "tickets.status = 'reserved' and expires_at <= statement",
            ),
            ("order by tickets.held_until", "order by tickets.expires_at"),
        ],
    ),
    "due holds of an event": Cure(
        "find_events",
        "the night before",
        [
            ("tickets.held_event_id = events.id", "tickets.event_id = events.id"),
            (
                "tickets.held_until <= statement",
                "tickets.status = 'reserved' and expires_at <= statement",
            ),
        ],
    ),
    # What a person has is found by the person, and not by the event or the status.
    "a person's tickets": Cure("reserve_tickets", "one person", [OF_THE_EVENT, WITH_THE_STATUS]),
    "a late payer's tickets": Cure(
        "reacquire_tickets",
        "one person",
        [
            OF_THE_EVENT,
            (
                """status_at(tickets.status, tickets.expires_at, statement_timestamp())
                in ('reserved', 'purchased')""",
                "tickets.status in ('reserved', 'purchased')",
            ),
            (
                "and tickets.id = any(array(select judged.id from judged))\n            ) is true",
                ")",
            ),
        ],
    ),
    "a new owner's tickets": Cure(
        "transfer_tickets", "one person", [OF_THE_EVENT, WITH_THE_STATUS]
    ),
    # An exists is a hash of the whole table to the planner, where that is empty.
    "replays": Cure(
        "reserve_tickets",
        "empty tables",
        [
            (
                "reservation_id in (select replayed.reservation_id from replayed)",
                "exists (select from ticket_allocations as earlier "
                "where earlier.reservation_id = requests.reservation_id)",
            )
        ],
    ),
}


@pytest.mark.parametrize("cure", CURES.values(), ids=list(CURES))
def test_without_its_cure_a_statement_reads_rows_that_it_does_not_need(
    states: States, cure: Cure, tmp_path: Path
) -> None:
    shutil.copytree(resource("sql"), tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{cure.statement}.sql"
    for part, instead in cure.parts:
        assert part in file.read_text(), f"{cure.statement} does not have: {part}"
        file.write_text(file.read_text().replace(part, instead))
    statements = load_statements(tmp_path)
    assert any(
        gone_through(node) > ROWS
        for _, node in rows_read(states, statements, [cure.statement], cure.before, "as migrated")
    ), f"{cure.statement} reads no more without its cure: is the cure still needed?"
