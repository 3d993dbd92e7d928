"""The plans: every statement of the hot path uses its index, however large the table is."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from service.database.connections import STEADY_PLANS
from service.database.statements import load_statements
from service.settings import resource
from tests.support.database import Database, created
from tests.support.psql_literals import literal

STATEMENTS = load_statements(resource("sql"))
TICKETS_PER_EVENT = 200

# As after a sale: most are sold, some lapsed or came back, a few are held, one of them too long.
FILL = """
insert into events (name, date, total_tickets, allocated_tickets, purchased_tickets)
select 'event-' || n, '2030-01-01'::timestamptz + n * interval '1 h', 300, 160, 150
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
where events.name like 'event-%';

vacuum analyze;
"""

USERS = ["user-1-of-event-1", "user-151-of-event-1", "user-190-of-event-1"]

HOT = [
    "lock_events",
    "expire_tickets",
    "cancel_tickets",
    "cancel_reservations",
    "refund_tickets",
    "pay_tickets",
    "pay_reservations",
    "reserve_tickets",
    "find_repeats",
    "find_events",
    "find_tickets",
    "find_reservations",
    "list_user_tickets",
    "list_event_tickets",
    "list_held_tickets",
    "list_ledger",
    "find_ledger_at",
    "list_news",
]


@pytest.fixture(scope="module")
def small(server: str, template: str) -> Iterator[Database]:
    """Twenty thousand tickets over a hundred events."""
    with created(server, template) as database:
        database.psql(FILL.format(events=100))
        yield database


@pytest.fixture(scope="module")
def large(server: str, template: str) -> Iterator[Database]:
    """Two hundred thousand tickets over a thousand events."""
    with created(server, template) as database:
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
        "most": 1000,
        "status": "",
        "page_size": 10,
        "skip": 0,
    }
    if name.endswith("_reservations"):
        values["user_fingerprints"] = USERS[1:2]
    if name in ("reserve_tickets", "find_repeats"):
        values["user_fingerprints"] = ["alice", "bob"]
    return {key: literal(values[key]) for key in STATEMENTS[name].types}


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


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return all nodes of a plan."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


@pytest.mark.parametrize("name", HOT)
def test_no_statement_of_the_hot_path_reads_all_tickets(large: Database, name: str) -> None:
    # With the planner's own choice, and as the connections of the write path have it.
    for options in ("", STEADY_PLANS):
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
        explained(database, name, STEADY_PLANS)  # the first one warms the catalog
        plan = explained(database, name, STEADY_PLANS)
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


SEASONS = """
insert into events (name, date, total_tickets, allocated_tickets, purchased_tickets)
select 'season-' || n, '2020-01-01', 200, 150, 150 from generate_series(1, 100) as n;

insert into ticket_allocations (event_id, user_fingerprint, status)
select id, name || n, (case when n <= 150 then 'purchased' else 'expired' end)::allocation_status
from events cross join generate_series(1, 200) as n;

vacuum analyze;
"""


# Minutes into a hot sale with short holds, just analysed: all tickets are of one event of many,
# and since what is over has lapsed, the planner takes what is held to be due.
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

vacuum analyze;
"""


@pytest.mark.parametrize(
    "before",
    ["", SEASONS, HOT_EVENT],
    ids=["empty", "with sold seasons and no hold", "with a crowd of holds"],
)
def test_a_plan_made_before_the_sale_is_good_in_the_midst_of_it(
    server: str, template: str, before: str
) -> None:
    """As in a service that starts before the sale and plans once: nobody has analysed since."""
    with created(server, template) as database:
        database.psql("alter table ticket_allocations set (autovacuum_enabled = off)")
        database.psql("alter table events set (autovacuum_enabled = off)")
        database.psql(before)
        with psycopg.connect(database.dsn, options=STEADY_PLANS, autocommit=True) as connection:
            for name in HOT:
                statement = STATEMENTS[name]
                connection.execute(b"prepare %s as %s" % (name.encode(), statement.numbered))
                nothing = [
                    psycopg.sql.Literal("{}" if type_.endswith("[]") else EMPTY[type_])
                    for type_ in statement.types.values()
                ]
                connection.execute(execute(name, nothing))  # the first call makes the plan
            database.psql(FILL.format(events=1000).replace("vacuum analyze;", ""))
            for name in HOT:
                given = parameters(database, name)
                arguments = [psycopg.sql.Literal(given[key]) for key in STATEMENTS[name].types]
                with connection.transaction(force_rollback=True):
                    row = connection.execute(
                        psycopg.sql.SQL("explain (analyze, buffers, format json) {}").format(
                            execute(name, arguments)
                        )
                    ).fetchone()
                assert row is not None
                # A thousand events, ten thousand holds: no step goes through so many.
                for node in nodes(row[0][0]["Plan"]):
                    assert gone_through(node) < 500, (name, json.dumps(node))


def gone_through(node: dict[str, Any]) -> float:
    """Return how many rows a step has produced or passed over, over all its loops."""
    passed_over = sum(count for key, count in node.items() if key.startswith("Rows Removed"))
    return float((node["Actual Rows"] + passed_over) * node["Actual Loops"])


EMPTY = {
    "interval": "1 s",
    "integer": "1",
    "bigint": "0",
    "text": "",
    "timestamptz": "2030-01-01",
    "uuid": "018f0000-0000-7000-8000-000000000001",
}


def execute(name: str, arguments: list[psycopg.sql.Literal]) -> psycopg.sql.Composed:
    return psycopg.sql.SQL("execute {} ({})").format(
        psycopg.sql.Identifier(name), psycopg.sql.SQL(", ").join(arguments)
    )
