"""Grants: the service's role may do what sql/ does, and the database refuses it all else."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.commands import holdfast, refused
from tests.support.database import SERVICE_ROLE, Database

E1 = "018f0000-0000-7000-8000-000000000001"
RIGHTS = """
select table_name, lower(privilege_type), string_agg(column_name, ' ' order by column_name)
from information_schema.column_privileges
where grantee = '{role}' and table_schema = 'public'
group by 1, 2 order by 1, 2
"""
WHOLE = """
select table_name, lower(privilege_type)
from information_schema.table_privileges
where grantee = '{role}' and table_schema = 'public' order by 1, 2
"""


def rights(database: Database, role: str) -> list[str]:
    """Return what the catalog says a role may do: to whole tables, then to which columns."""
    columns = [
        line
        for line in database.psql(RIGHTS.format(role=role))
        if "|select|" not in line  # of whole tables
    ]
    return [*database.psql(WHOLE.format(role=role)), *columns]


GRANTED = [
    "_yoyo_migration|select",
    "event_ledger|select",
    "event_private|select",
    "events|select",
    "ticket_allocations|select",
    "event_ledger|insert|actor allocated_tickets cancelled event_id expired last_event purchased "
    "purchased_tickets recorded_at refunded reserved total_tickets version",
    "event_private|insert|event_id",
    "events|insert|date name total_tickets",
    "events|update|allocated_tickets date name purchased_tickets total_tickets version",
    "ticket_allocations|insert|event_id expires_at id position reservation_id user_fingerprint",
    "ticket_allocations|update|expires_at status",
]


@pytest.fixture
def role(server: str) -> Iterator[str]:
    """A role of the test's own."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("create role a_role login")
        yield "a_role"
        connection.execute("drop role a_role")


@pytest.fixture
def granted(database: Database, role: str) -> Iterator[str]:
    """The same with grants, which are gone before it is."""
    yield role
    database.psql(f"drop owned by {role}")


def test_the_catalog_names_what_the_service_may(database: Database) -> None:
    assert rights(database, SERVICE_ROLE) == GRANTED


def test_the_services_under_test_connect_as_that_role(database: Database, service: object) -> None:
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
        "update ticket_allocations set user_fingerprint = 'mallory'",
        "update ticket_allocations set event_id = event_id",
        "insert into ticket_allocations (event_id, user_fingerprint, status) "
        f"values ('{E1}', 'mallory', 'purchased')",
        "update event_private set secret = gen_random_uuid()",
        "update event_ledger set version = version",
        "delete from event_ledger",
        "alter table event_ledger disable trigger all",
        "insert into _yoyo_migration (migration_id) values ('0099')",
    ],
)
def test_the_database_refuses_it_all_else(database: Database, sql: str) -> None:
    done = database.try_psql(sql, role=SERVICE_ROLE)
    assert done.returncode != 0
    assert "permission denied" in done.stderr or "must be owner" in done.stderr


def test_grant_gives_what_is_needed_and_takes_what_is_more(
    database: Database, granted: str
) -> None:
    database.psql(
        f"grant all on all tables in schema public to {granted};"
        f"grant create on schema public to {granted};"
        f"grant delete, truncate on ticket_allocations to {granted};"
        f"grant update (secret) on event_private to {granted}"
    )
    done = holdfast("grant", granted, DATABASE_URL=database.dsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert rights(database, granted) == GRANTED
    # What it prints is what it did: it does the same in psql.
    database.psql(f"drop owned by {granted}")
    database.psql(done.stdout)
    assert rights(database, granted) == GRANTED


def test_a_migration_that_adds_a_right_asks_for_another_grant(
    database: Database, granted: str
) -> None:
    holdfast("grant", granted, DATABASE_URL=database.dsn)
    database.psql(f"revoke update (version) on events from {granted}")
    url = database.dsn.replace("//holdfast@", f"//{granted}@")
    said = refused(holdfast("serve", DATABASE_URL=url, PORT=0))
    assert said == f"holdfast: {granted} lacks rights: run holdfast grant {granted} as the owner\n"


def test_a_role_without_any_grant_is_told_the_same(database: Database, role: str) -> None:
    url = database.dsn.replace("//holdfast@", f"//{role}@")
    assert f"run holdfast grant {role}" in refused(holdfast("serve", DATABASE_URL=url, PORT=0))


def test_a_right_from_elsewhere_is_named(database: Database, granted: str) -> None:
    database.psql("grant delete on ticket_allocations to public")
    said = refused(holdfast("grant", granted, DATABASE_URL=database.dsn))
    assert said == (
        f"holdfast: {granted} still has, by another role or by PUBLIC: ticket_allocations: delete\n"
    )


def test_a_role_may_call_our_functions_where_the_public_may_not(
    database: Database, granted: str
) -> None:
    database.psql("revoke execute on all functions in schema public from public")
    assert "lacks rights" in refused(holdfast("serve", DATABASE_URL=database.service_dsn, PORT=0))
    assert holdfast("grant", granted, DATABASE_URL=database.dsn).returncode == 0
    created = "insert into events (name, date, total_tickets) values ('Gig', '2030-01-01', 1)"
    assert database.try_psql(created, role=granted).returncode == 0


def test_who_owns_the_tables_is_granted_nothing(database: Database) -> None:
    said = refused(holdfast("grant", "holdfast", DATABASE_URL=database.dsn))
    assert said.startswith("holdfast: holdfast owns the tables or is a superuser")


def test_a_role_that_does_not_exist_is_named(database: Database) -> None:
    said = refused(holdfast("grant", 'no"body', DATABASE_URL=database.dsn))
    assert 'role "no"body" does not exist' in said
