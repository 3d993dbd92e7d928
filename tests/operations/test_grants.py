"""Grants: the role of the service has the rights that sql/ needs, and no others."""

import re
from collections.abc import Iterator

import psycopg
import pytest

from service.database.grants import TooManyRights, grant
from tests.support.batches import STATEMENTS
from tests.support.commands import error_line, holdfast
from tests.support.database import SERVICE_ROLE, Database

E1 = "018f0000-0000-7000-8000-000000000001"
COLUMN_RIGHTS = """
select table_name, lower(privilege_type), string_agg(column_name, ' ' order by column_name)
from information_schema.column_privileges
where grantee = '{role}' and table_schema = 'public'
group by 1, 2 order by 1, 2
"""
TABLE_RIGHTS = """
select table_name, lower(privilege_type)
from information_schema.table_privileges
where grantee = '{role}' and table_schema = 'public' order by 1, 2
"""


def rights(database: Database, role: str) -> list[str]:
    """Return a role's rights according to the catalog: on tables, then on columns."""
    columns = [
        line
        for line in database.psql(COLUMN_RIGHTS.format(role=role))
        if "|select|" not in line  # granted on the whole table
    ]
    return [*database.psql(TABLE_RIGHTS.format(role=role)), *columns]


GRANTED = [
    "_yoyo_migration|select",
    "event_ledger|select",
    "event_private|select",
    "events|select",
    "ticket_allocations|select",
    "waiting_entries|select",
    "event_ledger|insert|actor allocated_tickets cancelled event_id expired last_event purchased "
    "purchased_tickets recorded_at refunded reserved total_tickets version waiting_tickets",
    "event_private|insert|event_id",
    "events|insert|date hold_seconds max_hold_seconds max_tickets_per_person name sale_closes_at "
    "sale_opens_at total_tickets",
    "events|update|allocated_tickets date hold_seconds max_hold_seconds max_tickets_per_person "
    "name purchased_tickets revision sale_closes_at sale_opens_at total_tickets version "
    "waiting_tickets",
    "ticket_allocations|insert|event_id expires_at id position reservation_id user_fingerprint",
    "ticket_allocations|update|expires_at status user_fingerprint",
    "waiting_entries|insert|event_id position quantity user_fingerprint",
    "waiting_entries|update|left_at reservation_id unservable_at",
]


@pytest.fixture
def role(server: str) -> Iterator[str]:
    """A new role."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("create role a_role login")
        yield "a_role"
        connection.execute("drop role a_role")


@pytest.fixture
def granted(database: Database, role: str) -> Iterator[str]:
    """The same role; its rights are dropped at the end, so that it can be dropped."""
    yield role
    database.psql(f"drop owned by {role}")


def test_the_catalog_lists_the_rights_of_the_service(database: Database) -> None:
    assert rights(database, SERVICE_ROLE) == GRANTED


def test_the_services_under_test_connect_with_that_role(
    database: Database, service: object
) -> None:
    users = database.psql(
        "select distinct usename from pg_stat_activity "
        "where application_name = 'holdfast' and datname = current_database()"
    )
    assert users == [SERVICE_ROLE]


@pytest.mark.parametrize(
    "sql",
    [
        "create table more (id integer)",
        "drop table ticket_allocations",
        "alter table events add column more integer",
        "truncate ticket_allocations",
        "delete from ticket_allocations",
        "delete from events",
        "update ticket_allocations set reservation_id = gen_random_uuid()",
        "update ticket_allocations set event_id = event_id",
        "insert into ticket_allocations (event_id, user_fingerprint, status) "
        f"values ('{E1}', 'mallory', 'purchased')",
        "update waiting_entries set user_fingerprint = 'mallory'",
        "update waiting_entries set position = 1",
        "delete from waiting_entries",
        "update event_private set secret = gen_random_uuid()",
        "update event_ledger set version = version",
        "delete from event_ledger",
        "alter table event_ledger disable trigger all",
        "insert into _yoyo_migration (migration_id) values ('0099')",
    ],
)
def test_the_database_refuses_everything_else(database: Database, sql: str) -> None:
    process = database.try_psql(sql, role=SERVICE_ROLE)
    assert process.returncode != 0
    assert "permission denied" in process.stderr or "must be owner" in process.stderr


def test_grant_adds_missing_rights_and_revokes_others(database: Database, granted: str) -> None:
    database.psql(
        f"grant all on all tables in schema public to {granted};"
        f"grant create on schema public to {granted};"
        f"grant delete, truncate on ticket_allocations to {granted};"
        f"grant update (secret) on event_private to {granted}"
    )
    process = holdfast("grant", granted, DATABASE_URL=database.dsn)
    assert (process.returncode, process.stderr) == (0, "")
    assert rights(database, granted) == GRANTED
    # It prints the statements that it ran: they have the same effect in psql.
    database.psql(f"drop owned by {granted}")
    database.psql(process.stdout)
    assert rights(database, granted) == GRANTED


def test_a_service_with_a_missing_right_does_not_start(database: Database, granted: str) -> None:
    holdfast("grant", granted, DATABASE_URL=database.dsn)
    database.psql(f"revoke update (version) on events from {granted}")
    url = database.dsn.replace("//holdfast@", f"//{granted}@")
    error = error_line(holdfast("serve", DATABASE_URL=url, PORT=0, seconds=20))
    assert error == f"holdfast: {granted} lacks rights: run holdfast grant {granted} as the owner\n"


def test_a_service_without_any_right_does_not_start(database: Database, role: str) -> None:
    url = database.dsn.replace("//holdfast@", f"//{role}@")
    assert f"run holdfast grant {role}" in error_line(holdfast("serve", DATABASE_URL=url, PORT=0))


def test_a_right_granted_to_public_is_reported(database: Database, granted: str) -> None:
    database.psql("grant delete on ticket_allocations to public")
    error = error_line(holdfast("grant", granted, DATABASE_URL=database.dsn))
    assert error == (
        f"holdfast: {granted} still has rights through another role or PUBLIC; "
        "revoke them: ticket_allocations: delete\n"
    )


@pytest.mark.parametrize(
    ("right", "reported"),
    [
        ("truncate on events", "events: truncate"),
        ("references on event_private", "event_private: references"),
        ("trigger on event_ledger", "event_ledger: trigger"),
        (
            "update (reservation_id) on ticket_allocations",
            "ticket_allocations.reservation_id: update",
        ),
        (
            "update (user_fingerprint) on waiting_entries",
            "waiting_entries.user_fingerprint: update",
        ),
        ("update (event_id) on ticket_allocations", "ticket_allocations.event_id: update"),
        ("update (secret) on event_private", "event_private.secret: update"),
        ("update (version) on event_ledger", "event_ledger.version: update"),
        ("create on schema public", "the schema: create"),
    ],
)
def test_each_excess_right_is_reported(database: Database, right: str, reported: str) -> None:
    database.psql(f"grant {right} to public")
    with pytest.raises(TooManyRights, match=re.escape(f"revoke them: {reported}") + "$"):
        grant(database.dsn, STATEMENTS, SERVICE_ROLE)


def test_grant_includes_functions_that_public_may_not_call(
    database: Database, granted: str
) -> None:
    database.psql("revoke execute on all functions in schema public from public")
    assert "lacks rights" in error_line(
        holdfast("serve", DATABASE_URL=database.service_dsn, PORT=0)
    )
    assert holdfast("grant", granted, DATABASE_URL=database.dsn).returncode == 0
    created = "insert into events (name, date, total_tickets) values ('Gig', '2030-01-01', 1)"
    assert database.try_psql(created, role=granted).returncode == 0


def test_the_owner_of_the_tables_is_refused_a_grant(database: Database) -> None:
    error = error_line(holdfast("grant", "holdfast", DATABASE_URL=database.dsn))
    assert error.startswith("holdfast: holdfast owns the tables or is a superuser")


def test_a_missing_role_is_reported(database: Database) -> None:
    error = error_line(holdfast("grant", 'no"body', DATABASE_URL=database.dsn))
    assert 'role "no"body" does not exist' in error
