"""Every file of sql/ runs in psql as it lies on disk, and gives there what the service gets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.cli.sql_headers import parse_header
from service.database.connections import ADAPTERS, PLAN_OPTIONS
from service.database.statements import load_statements
from service.settings import resource
from tests.support.database import Database
from tests.support.psql_literals import literal
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))
FOLDER = resource("sql")

E1, E2, UNKNOWN = (f"018f0000-0000-7000-8000-00000000000{n}" for n in range(1, 4))
W1, W2 = "018f0000-0000-7000-8000-000000000021", "018f0000-0000-7000-8000-000000000022"
T1, T2, T3 = (f"018f0000-0000-7000-8000-00000000001{n}" for n in range(1, 4))

# The secrets are fixed, so that the ids that are derived from them are.
SECRETS = "update event_private set secret = event_id;"
EVENT = "insert into events (id, name, date, total_tickets, allocated_tickets) values"
TICKET = (
    "insert into ticket_allocations "
    "(id, event_id, user_fingerprint, status, expires_at, reservation_id, created_at, updated_at) "
    "values"
)
ONE, OTHER = f"('{E1}', 'one', '2030-01-01', {{}})", f"('{E2}', 'other', '2030-01-02', {{}})"
ENTRY = (
    "insert into waiting_entries "
    "(id, event_id, position, user_fingerprint, quantity, created_at, updated_at) values"
)
LONG_AGO = "'2020-01-01', '2020-01-01'"
STATES = {
    "empty": "",
    "a lapsed hold": f"""
        {EVENT} {ONE.format("2, 1")}; {SECRETS}
        {TICKET} ('{T1}', '{E1}', 'alice', 'reserved', '2020-01-01', '{T1}', {LONG_AGO});
    """,
    "sold out": f"""
        {EVENT} {ONE.format("1, 1")}; {SECRETS}
        {TICKET} ('{T1}', '{E1}', 'alice', 'reserved', '2040-01-01', '{T1}', {LONG_AGO});
    """,
    "a batch of several": f"""
        {EVENT} {ONE.format("10, 3")}, {OTHER.format("2, 0")}; {SECRETS}
        {TICKET} ('{T1}', '{E1}', 'alice', 'reserved', '2040-01-01', '{T1}', {LONG_AGO}),
        ('{T2}', '{E1}', 'bob', 'purchased', null, '{T2}', {LONG_AGO}),
        ('{T3}', '{E1}', 'a"b\\c', 'reserved', '2020-01-01', '{T3}', {LONG_AGO});
        update events set purchased_tickets = 1 where id = '{E1}';
        -- What the key k has reserved for alice.
        update ticket_allocations
        set reservation_id = reservation_id_for_key('{E1}', 'alice', 'k') where id = '{T1}';
    """,
    "a line": f"""
        {EVENT} {ONE.format("10, 3")}, {OTHER.format("1, 1")}; {SECRETS}
        {TICKET} ('{T1}', '{E1}', 'alice', 'reserved', '2040-01-01', '{T1}', {LONG_AGO}),
        ('{T2}', '{E1}', 'bob', 'purchased', null, '{T2}', {LONG_AGO}),
        ('{T3}', '{E1}', 'a"b\\c', 'reserved', '2020-01-01', '{T3}', {LONG_AGO});
        update events set purchased_tickets = 1, waiting_tickets = 12 where id = '{E1}';
        -- What the key k has reserved for alice.
        update ticket_allocations
        set reservation_id = reservation_id_for_key('{E1}', 'alice', 'k') where id = '{T1}';
        {ENTRY} ('{W1}', '{E1}', 1, 'bob', 2, {LONG_AGO}),
        ('{W2}', '{E1}', 2, 'a"b\\c', 10, {LONG_AGO});
    """,
}

CONCERNED: dict[str, Any] = {
    "event_ids": [E1, UNKNOWN],
    "ticket_ids": [T1, T2, UNKNOWN],
    "reservation_ids": [T3, UNKNOWN],
}
OWNED: dict[str, Any] = {
    "ticket_ids": [T1, T1, T3, T2, UNKNOWN, None, None, None, None],
    "reservation_ids": [None, None, None, None, None, T2, T3, T1, UNKNOWN],
    "user_fingerprints": [
        "mallory",
        "alice",
        'a"b\\c',
        "bob",
        "alice",
        "bob",
        'a"b\\c',
        "mallory",
        "alice",
    ],
}
RESERVING: dict[str, Any] = {
    "event_ids": [E1, E2, E1, UNKNOWN, E2, E1],
    "quantities": [1, 2, 1, 1, 1, 5],
    "user_fingerprints": ["alice", "bob", "alice", "carol", 'a"b\\c,{}', "dora"],
    "idempotency_keys": ["k", "", "k", "", "", ""],
}
WAITING: dict[str, Any] = {
    "event_ids": [E1, E1, E1, UNKNOWN, E2, E2],
    "quantities": [2, 3, 1, 1, 1, 9],
    "user_fingerprints": ["bob", 'a"b\\c', "dora", "carol", "emil", "frida"],
}
PARAMETERS: dict[str, Mapping[str, Any]] = {
    "cancel_tickets": OWNED,
    "check_events": {"event_ids": [E1, E2], "failed_only": False},
    "check_server": {},
    "count_waiting_commits": {},
    "create_event": {
        "name": "new %s ':x",
        "date": "2030-05-01 20:00+00",
        "total_tickets": 3,
        "terms": '{"sale_opens_at": "2030-01-01T00:00:00Z", "hold_seconds": 60}',
    },
    "extend_reservations": {
        "reservation_ids": [T1, T2, T3, T3, UNKNOWN],
        "user_fingerprints": ["alice", "bob", 'a"b\\c', 'a"b\\c', "alice"],
        "hold_seconds": 900,
        "max_hold_seconds": 1800,
    },
    "expire_tickets": {**CONCERNED, "quantities": [1, 2], "most": 10},
    "find_events": {"event_ids": [E1, E2, UNKNOWN]},
    "find_unlocked_events": {"event_ids": [E1, E2, UNKNOWN]},
    "find_pooler": {"process": 0},
    "find_ledger_at": {"event_id": E1, "at": "2040-01-01 00:00+00"},
    "find_waiting_entries": {"entry_ids": [W1, W2, UNKNOWN]},
    "find_replays": {**RESERVING, "idempotency_keys": ["k", "k", "", "", "", "k"]},
    "find_reservations": {"reservation_ids": [T2, T3, UNKNOWN]},
    "find_tickets": {"ticket_ids": [T1, T2, T3, UNKNOWN]},
    "forget_user": {"event_id": E1, "user_fingerprint": "bob", "replacement": "nobody"},
    "join_waiting_list": {**WAITING, "max_entries": 4},
    "leave_waiting_list": {
        "event_ids": [E1, E1, E1, UNKNOWN],
        "entry_ids": [W1, W1, W2, UNKNOWN],
        "user_fingerprints": ["mallory", "bob", 'a"b\\c', "bob"],
    },
    "limit_waits": {"lock_timeout": "0.1 s", "statement_timeout": "2 s"},
    "list_applied_migrations": {},
    "list_due_events": {"most": 10},
    "list_event_ids": {"after": "00000000-0000-0000-0000-000000000000", "page_size": 10},
    "list_event_tickets": {"event_id": E1, "status": "", "page_size": 2, "skip": 0},
    "list_event_tickets_after": {"event_id": E1, "status": "", "after": T3, "page_size": 2},
    "list_events": {
        "dates": "(,)",
        "q": "O",
        "available": True,
        "sale_status": "open",
        "page_size": 5,
        "skip": 0,
    },
    "list_excess_rights": {"role": "holdfast"},
    "list_grants": {"role": "pg_monitor"},
    "list_ledger": {"event_id": E1, "after": 0, "page_size": 10},
    "list_news": {"event_ids": [E1, E2, UNKNOWN], "versions": [0, 1, 0]},
    "list_held_tickets": {"event_id": E1, "most": 10},
    "list_lines": {"most": 10},
    "list_lock_waits": {},
    "list_service_connections": {"name": "no such service"},
    "list_user_events": {"user_fingerprint": "alice"},
    "list_user_tickets": {
        "user_fingerprint": 'a"b\\c',
        "status": "expired",
        "page_size": 2,
        "skip": 0,
    },
    "list_user_tickets_after": {
        "user_fingerprint": 'a"b\\c',
        "status": "expired",
        "after": T3,
        "page_size": 2,
    },
    "list_waiting_entries": {"event_id": E1, "state": "waiting", "after": W1, "page_size": 2},
    "lock_events": CONCERNED,
    "lock_migrations": {},
    # Of an event that does not exist, or it would have to name its state.
    "match_event": {
        "event_id": UNKNOWN,
        "versions": [1],
        "available_tickets": [3],
        "updated_at": ["2030-01-01 00:00+00"],
        "sale_statuses": ["open"],
    },
    "offer_tickets": {"event_ids": [E1, E2, UNKNOWN], "hold": "900 s", "most": 1000},
    "pay_tickets": OWNED,
    "reacquire_tickets": OWNED,
    "refund_tickets": {
        "ticket_ids": [T1, T2, T2, UNKNOWN, None],
        "reservation_ids": [None, None, None, None, T3],
        "resale": [True, False, True, True, False],
    },
    "reserve_tickets": {**RESERVING, "hold": "900 s"},
    "transfer_tickets": {
        "ticket_ids": [T1, T1, T2, T3, UNKNOWN],
        "user_fingerprints": ["mallory", "alice", "bob", 'a"b\\c', "alice"],
        "new_user_fingerprints": ["mallory", 'a"b\\c', "alice", "bob", "bob"],
    },
    "update_event": {
        "event_id": E1,
        "changes": '{"name": "renamed", "total_tickets": 2, "sale_closes_at": "now"}',
    },
}


def masked(rows: list[list[str]]) -> list[list[str]]:
    """Mask what no two runs have in common: ids just made, and times of this very moment."""

    def mask(value: str) -> str:
        value = re.sub(r"\b(?!018f0000)[0-9a-f]{8}-\S{4}-7\S{3}-\S{4}-\S{12}\b", "<new id>", value)
        value = re.sub(r"\b20(?!20|30|40)\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00", "<now>", value)
        value = re.sub(r"-?\d+ days -?\d\d:\d\d:\d\d", "<time left>", value)
        return re.sub(r"^\d+(\.\d+|e-\d+|\.\d+e-\d+)$", "<seconds>", value)

    return [[mask(value) for value in row] for row in rows]


ADVISORY_LOCKS = """
select count(*) from pg_locks
where locktype = 'advisory'
and database = (select oid from pg_database where datname = current_database())
"""


def in_psql(database: Database, name: str, parameters: Mapping[str, Any]) -> list[list[str]]:
    """Run a file in psql, in a transaction that is rolled back."""
    variables = [f"--set={key}={literal(value)}" for key, value in parameters.items()]
    done = database.try_psql(
        f"set time zone 'UTC';\nbegin;\n\\i {FOLDER / name}.sql\nrollback;",
        *("--field-separator=\x1f", "--record-separator=\x1e", "--pset=null=<null>"),
        *variables,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.strip("\n\x1e")
    return [record.strip("\n").split("\x1f") for record in text.split("\x1e")] if text else []


def in_the_service(database: Database, name: str, parameters: Mapping[str, Any]) -> list[list[str]]:
    """Run a statement as the service does, in a transaction that is rolled back."""
    with psycopg.connect(database.dsn, context=ADAPTERS, options="-c TimeZone=UTC") as connection:
        rows = unconverted_rows(connection, name, parameters)
        connection.rollback()
    return rows


def unconverted_rows(
    connection: psycopg.Connection, name: str, parameters: Mapping[str, Any]
) -> list[list[str]]:
    """Run a statement, and return its rows as PostgreSQL writes them."""
    result = connection.execute(STATEMENTS[name].query, parameters, prepare=True).pgresult
    assert result is not None
    return [
        [
            "<null>" if (value := result.get_value(row, column)) is None else value.decode()
            for column in range(result.nfields)
        ]
        for row in range(result.ntuples)
    ]


def test_every_statement_is_tried() -> None:
    assert set(PARAMETERS) == set(STATEMENTS)
    for name, parameters in PARAMETERS.items():
        assert parameters.keys() == STATEMENTS[name].types.keys(), (
            f"PARAMETERS has others for {name}"
        )


@pytest.mark.parametrize("state", STATES)
def test_psql_and_the_service_get_the_same_rows(unbalanced_database: Database, state: str) -> None:
    database = unbalanced_database
    database.psql(STATES[state])
    for name, parameters in PARAMETERS.items():
        shown = masked(in_psql(database, name, parameters))
        # lock_migrations: psql has gone, and its server's process lets go of the lock as it ends.
        wait_until(lambda: database.psql(ADVISORY_LOCKS) == ["0"])
        assert shown == masked(in_the_service(database, name, parameters)), name
        if state == "a line" and name not in (
            "list_lock_waits",
            "list_service_connections",
            "check_server",
            "match_event",
        ):
            assert shown, f"{name} has shown nothing to compare"


def test_each_psql_line_runs_as_it_stands(database: Database, tmp_path: Path) -> None:
    for before in ("", f"{EVENT} ('{E1}', 'one', '2030-01-01', 5, 0)"):
        database.psql(before)
        for name, statement in STATEMENTS.items():
            example = parse_header(statement).example
            if name == "match_event" and before:
                with pytest.raises(AssertionError, match="in another state than the request names"):
                    in_psql(database, name, example)
            else:
                assert in_psql(database, name, example) is not None


TABLES = ("events", "ticket_allocations", "event_ledger", "event_private", "waiting_entries")


@pytest.mark.parametrize("column", ["note text", "note integer not null default 7"])
@pytest.mark.parametrize("table", TABLES)
def test_a_new_column_changes_no_statement(
    unbalanced_database: Database, table: str, column: str
) -> None:
    """A migration of the next version may add one while this version serves."""
    database = unbalanced_database
    database.psql(STATES["a line"])

    def run(connection: psycopg.Connection, name: str) -> list[list[str]]:
        with connection.transaction(force_rollback=True):
            return masked(unconverted_rows(connection, name, PARAMETERS[name]))

    # What a session shows of itself differs each time.
    names = [name for name in STATEMENTS if name not in ("list_lock_waits", "check_server")]
    options = f"-c TimeZone=UTC {PLAN_OPTIONS}"
    with psycopg.connect(
        database.dsn, context=ADAPTERS, options=options, autocommit=True
    ) as connection:
        before = {name: run(connection, name) for name in names}
        database.psql(f"alter table {table} add column {column}")
        # With the statements prepared before, and prepared after.
        assert {name: run(connection, name) for name in names} == before
        connection.execute("deallocate all")
        assert {name: run(connection, name) for name in names} == before
