"""The row types match the catalog and the columns that every statement returns."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import psycopg
import pytest

from service import rows
from service.database.statements import load_statements
from service.rows import AllocationStatus, EventChange, Uuid
from service.settings import resource
from tests.support.database import Database

TABLES = {
    "events": rows.EventRow,
    "ticket_allocations": rows.TicketAllocation,
    "event_private": rows.EventPrivate,
    "event_ledger": rows.EventLedger,
    "waiting_entries": rows.WaitingEntryRow,
}
PYTHON_TYPES: dict[str, Any] = {
    "uuid": Uuid,
    "character varying": str,
    "timestamp with time zone": datetime,
    "integer": int,
    "bigint": int,
    "allocation_status": AllocationStatus,
    "event_change": EventChange,
}


def test_every_table_has_a_row_type(database: Database) -> None:
    tables = database.psql(
        "select tablename from pg_tables where schemaname = 'public' and tablename !~ 'yoyo'"
    )
    assert set(tables) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_row_type_has_the_columns_of_its_table(database: Database, table: str) -> None:
    columns = {}
    for line in database.psql(
        "select attname, format_type(atttypid, null), attnotnull from pg_attribute "
        f"where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped "
        "and attgenerated = '' order by attnum"
    ):
        name, type_, not_null = line.split("|")
        python = PYTHON_TYPES[type_]
        columns[name] = python if not_null == "t" else python | None
    assert get_type_hints(TABLES[table]) == columns
    assert list(get_type_hints(TABLES[table])) == list(columns)


@pytest.mark.parametrize(
    ("enum", "literal"),
    [("allocation_status", AllocationStatus), ("event_change", EventChange)],
)
def test_a_literal_has_the_values_of_its_enum(
    database: Database, enum: str, literal: object
) -> None:
    assert database.psql(f"select unnest(enum_range(null::{enum}))") == list(get_args(literal))
    assert get_origin(literal) is Literal


@pytest.mark.parametrize(
    ("name", "types", "first"),
    [
        ("create_event", [rows.Event], 2),
        ("find_events", [rows.Event], 0),
        ("list_events", [rows.Event], 1),
        ("list_news", [rows.Event, rows.LastEvent], 0),
        ("find_ledger_at", [rows.EventLedger], 0),
        ("list_ledger", [rows.EventLedger], 0),
        ("find_tickets", [rows.TicketAllocation], 0),
        ("find_reservations", [rows.TicketAllocation], 0),
        ("list_event_tickets", [rows.TicketAllocation], 1),
        ("list_user_tickets", [rows.TicketAllocation], 1),
        ("list_event_tickets_after", [rows.TicketAllocation], 1),
        ("list_user_tickets_after", [rows.TicketAllocation], 1),
        ("find_replays", [rows.TicketAllocation], 2),
        ("cancel_tickets", [rows.TicketAllocation], 4),
        ("pay_tickets", [rows.TicketAllocation], 4),
        ("refund_tickets", [rows.TicketAllocation], 4),
        ("reserve_tickets", [rows.TicketAllocation], 7),
        ("reacquire_tickets", [rows.TicketAllocation], 8),
        ("transfer_tickets", [rows.TicketAllocation], 3),
        ("extend_reservations", [rows.TicketAllocation], 4),
        ("find_waiting_entries", [rows.WaitingEntry], 0),
        ("list_waiting_entries", [rows.WaitingEntry], 1),
        ("check_events", [rows.Check], 0),
    ],
)
def test_a_statement_returns_the_columns_of_its_row_type(
    database: Database, name: str, types: list[type], first: int
) -> None:
    statement = load_statements(Path(resource("sql")))[name]
    with psycopg.connect(database.dsn) as connection:
        prepared = connection.pgconn.prepare(b"s", statement.numbered)
        assert prepared.status == psycopg.pq.ExecStatus.COMMAND_OK, prepared.error_message
        described = connection.pgconn.describe_prepared(b"s")
        names = [(described.fname(n) or b"").decode() for n in range(described.nfields)]
    fields = [field for row in types for field in row.__struct_fields__]  # type: ignore[attr-defined]
    assert names[first:] == fields
