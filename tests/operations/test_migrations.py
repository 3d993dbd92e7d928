"""The migrations: up, down, up again with rows in place; and the rules they put there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.database.connections import conninfo
from service.database.migrations import (
    FIRST_MIGRATION_OF_0_1,
    ServicesConnected,
    migrate,
    migration_names,
    yoyo_url,
)
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.settings import resource
from tests.support.citus import not_on_citus
from tests.support.commands import error_line, holdfast
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.schema import SCHEMA
from tests.support.services import Starter
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))
NAMES = migration_names()


ROWS = """
insert into events (name, date, total_tickets, allocated_tickets)
values ('with tickets', '2030-01-01', 10, 2), ('without', '2030-01-02', 5, 0);
insert into ticket_allocations (event_id, user_fingerprint, status, expires_at)
select id, 'alice', status::allocation_status, expires_at
from events
cross join (
    values ('reserved', now() + '1 h'), ('purchased', null), ('expired', now())
) as tickets (status, expires_at)
where name = 'with tickets';
"""


def yoyo(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run yoyo's own command from the repository's root."""
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "yoyo"),
            *arguments[:1],
            *("--batch", "--database", yoyo_url(database.dsn)),
            *arguments[1:],
        ],
        cwd=ROOT,
        env={**os.environ, "USER": "tester"},
        capture_output=True,
        text=True,
        check=True,
    )


def test_migrating_twice_applies_once(empty_database: Database) -> None:
    assert migrate(empty_database.dsn, STATEMENTS) == NAMES
    assert migrate(empty_database.dsn, STATEMENTS) == []


def test_yoyo_itself_applies_lists_and_rolls_back_to_nothing(empty_database: Database) -> None:
    yoyo(empty_database, "apply")
    assert empty_database.psql("select count(*) from events") == ["0"]
    listed = yoyo(empty_database, "list").stdout
    assert [line.split()[:2] for line in listed.splitlines()[2:]] == [["A", name] for name in NAMES]
    yoyo(empty_database, "rollback", "--all")
    assert empty_database.psql(SCHEMA) == []
    assert yoyo(empty_database, "list").stdout.splitlines()[2].split()[:2] == ["U", NAMES[0]]


@not_on_citus("yoyo.ini names no schema")
def test_yoyo_works_from_the_root_on_what_the_environment_names(empty_database: Database) -> None:
    parts = conninfo_to_dict(empty_database.dsn)
    libpq = {"PGHOST": parts["host"], "PGUSER": parts["user"], "PGDATABASE": parts["dbname"]}
    for command, shown in (("apply", ""), ("list", NAMES[0])):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "yoyo"), command],
            cwd=ROOT,
            env={**os.environ, "USER": "tester", **{key: str(libpq[key]) for key in libpq}},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown in done.stdout
    assert empty_database.psql("select count(*) from events") == ["0"]


def test_holdfast_and_yoyo_keep_the_same_record(empty_database: Database) -> None:
    migrate(empty_database.dsn, STATEMENTS)
    yoyo(empty_database, "rollback", "--revision", NAMES[-2])
    assert migrate(empty_database.dsn, STATEMENTS) == NAMES[-2:]


def test_each_migration_goes_down_and_up_again_with_rows_in_place(
    empty_database: Database,
) -> None:
    database = empty_database
    schemas = [database.psql(SCHEMA)]
    for name in NAMES:
        yoyo(database, "apply", "--revision", name)
        schemas.append(database.psql(SCHEMA))
        if name == "0002_create_ticket_allocations":
            database.psql(ROWS)
    assert len({tuple(schema) for schema in schemas}) == len(schemas)
    # A row of every status, on the way down.
    database.psql(
        "insert into ticket_allocations (event_id, user_fingerprint, status) "
        "select event_id, 'bob', ends.status from ticket_allocations, "
        "(values ('user_cancelled'::allocation_status), ('refunded')) as ends (status) limit 2"
    )
    statuses = database.psql("select distinct status from ticket_allocations order by 1")
    assert statuses == ["reserved", "purchased", "expired", "user_cancelled", "refunded"]
    for below, name in reversed(list(enumerate(NAMES))):
        before = database.psql(SCHEMA)
        yoyo(database, "rollback", "--revision", name)
        assert database.psql(SCHEMA) == schemas[below], f"{name} does not go down to what was"
        yoyo(database, "apply", "--revision", name)
        assert database.psql(SCHEMA) == before, f"{name} does not come up again"
        yoyo(database, "rollback", "--revision", name)
    assert database.psql("select to_regclass('events'), to_regclass('event_ledger')") == ["|"]


def test_rows_that_were_there_before_are_counted_and_recorded(empty_database: Database) -> None:
    database = empty_database
    yoyo(database, "apply", "--revision", "0002_create_ticket_allocations")
    database.psql(ROWS)
    migrate(database.dsn, STATEMENTS)
    assert database.psql("select purchased_tickets, version from events order by date") == [
        "1|1",
        "0|1",
    ]
    database.check_books()
    yoyo(database, "rollback", "--revision", "0006_reservations_and_counts")
    migrate(database.dsn, STATEMENTS)
    database.check_books()


def test_existing_names_become_nfc_unless_two_events_would_be_one(
    empty_database: Database,
) -> None:
    database = empty_database
    yoyo(database, "apply", "--revision", NAMES[NAMES.index("0012_compare_event_names") - 1])
    database.psql(
        "insert into events (name, date, total_tickets) values "
        r"(E'Cafe\u0301', '2030-01-01', 1), "
        # Two on one date: the one in NFC keeps the name, or else the first.
        r"(E'Cafe\u0301', '2030-01-02', 1), (E'Caf\u00e9', '2030-01-02', 1), "
        r"(E'A\u030a\u0327', '2030-01-03', 1), (E'A\u0327\u030a', '2030-01-03', 1), "
        # Too long in NFC.
        r"(repeat(E'\u0958', 255), '2030-01-04', 1), ('Gig', '2030-01-05', 1)"
    )
    yoyo(database, "apply")
    changed = "select name = normalize(name), date::date, updated_at > created_at from events"
    assert sorted(database.psql(changed)) == [
        "f|2030-01-02|f",
        "f|2030-01-03|f",
        "f|2030-01-04|f",
        "t|2030-01-01|t",
        "t|2030-01-02|f",
        "t|2030-01-03|t",
        "t|2030-01-05|f",
    ]
    # One that keeps its name can be sold and changed.
    database.psql("update events set total_tickets = 5, name = name")


def test_a_database_made_before_0_2_is_refused_in_one_line(empty_database: Database) -> None:
    # What version 0.1 leaves behind after its first migration is enough to tell it.
    database = empty_database
    yoyo(database, "apply", "--revision", NAMES[0])
    database.psql(f"update _yoyo_migration set migration_id = '{FIRST_MIGRATION_OF_0_1}'")
    before = database.psql(SCHEMA)
    for command in ("migrate", "serve"):
        said = error_line(holdfast(command, DATABASE_URL=database.dsn, PORT=0))
        assert said == (
            "holdfast: this database was created before version 0.2 and cannot be migrated: create "
            "a new database or, for the embedded one, move DATA_DIR away\n"
        )
    assert database.psql(SCHEMA) == before


def test_a_migration_that_fails_leaves_nothing_and_comes_again(empty_database: Database) -> None:
    # The name is taken: the second statement of the first migration fails.
    empty_database.psql("create view events as select 1")
    with pytest.raises(Exception, match="already exists"):
        migrate(empty_database.dsn, STATEMENTS)
    empty_database.psql("drop view events")
    assert migrate(empty_database.dsn, STATEMENTS) == NAMES


def test_a_lock_that_a_killed_migration_left_does_not_matter(empty_database: Database) -> None:
    yoyo(empty_database, "apply", "--revision", NAMES[0])
    empty_database.psql("insert into yoyo_lock (locked, ctime, pid) values (1, now(), 999999)")
    assert migrate(empty_database.dsn, STATEMENTS) == NAMES[1:]


def applied(database: Database) -> list[str]:
    """Return the names of the migrations that are applied."""
    return database.psql("select migration_id from _yoyo_migration order by migration_id")


def test_migrate_refuses_what_the_connected_services_cannot_bear(
    database: Database, start: Starter
) -> None:
    start(database, sweeps=False)
    yoyo(database, "rollback", "--revision", "0008_event_ledger")
    before = applied(database)
    error = error_line(holdfast("migrate", DATABASE_URL=database.dsn))
    assert re.fullmatch(
        r"holdfast: migration 0008_event_ledger would break the services of the version before "
        r"it, and [1-9]\d* connection\(s\) of services are open: stop the services, or run "
        r"holdfast migrate --force\n",
        error,
    )
    assert applied(database) == before == NAMES[:7]
    forced = holdfast("migrate", "--force", DATABASE_URL=database.dsn)
    assert forced.stdout.splitlines() == [f"applied {name}" for name in NAMES[7:]]


def test_migrate_applies_what_the_connected_services_can_bear(
    database: Database, start: Starter
) -> None:
    start(database, sweeps=False)
    # Roll this one back alone, although later migrations were applied.
    name = "0010_index_holds"
    database.psql((resource("migrations") / f"{name}.rollback.sql").read_text())
    database.psql(f"delete from _yoyo_migration where migration_id = '{name}'")
    assert migrate(database.dsn, STATEMENTS) == [name]


@pytest.mark.parametrize("name", ["holdfast", "shop"])
def test_services_are_found_by_the_name_that_the_url_gives_them(
    database: Database, name: str
) -> None:
    yoyo(database, "rollback", "--revision", "0008_event_ledger")
    dsn = make_conninfo(database.dsn, application_name=name)
    with psycopg.connect(dsn):
        with pytest.raises(ServicesConnected, match=r"and 1 connection\(s\) of services"):
            migrate(dsn, STATEMENTS)
        if name != "holdfast":
            with pytest.raises(ServicesConnected), psycopg.connect(conninfo(database.dsn)):
                migrate(database.dsn, STATEMENTS)
    wait_until(lambda: services(database, name) == ["0"])
    # Its own connections have that name in their URL, too.
    assert migrate(dsn, STATEMENTS) == NAMES[7:]


def services(database: Database, name: str) -> list[str]:
    """Return the number of connections with a name."""
    return database.psql(
        "select count(*) from pg_stat_activity where datname = current_database() "
        f"and application_name = '{name}'"
    )


def test_a_role_without_rights_sees_the_connections_of_others(database: Database) -> None:
    database.psql("drop role if exists migrator; create role migrator login")
    dsn = make_conninfo(database.dsn, user="migrator")
    with psycopg.connect(conninfo(database.dsn)), psycopg.connect(dsn) as connection:
        query = STATEMENTS["list_service_connections"].query
        rows = connection.execute(query, {"name": "holdfast"}).fetchall()
    database.psql("drop role migrator")
    assert [row[1] for row in rows] == ["holdfast"]


def test_the_first_migration_of_a_database_needs_no_check(empty_database: Database) -> None:
    with psycopg.connect(conninfo(empty_database.dsn)):
        assert migrate(empty_database.dsn, STATEMENTS) == NAMES


def test_serve_refuses_what_another_service_on_its_database_cannot_bear(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        database = Database(str(postgres.dsn))
        migrate(database.dsn, STATEMENTS)
        yoyo(database, "rollback", "--revision", "0008_event_ledger")
        with psycopg.connect(conninfo(database.dsn)):
            error = error_line(holdfast("serve", DATA_DIR=folder))
        assert "1 connection(s) of services are open: stop the services" in error
        assert applied(database) == NAMES[:7]


def test_the_documents_indexes_cover_every_row(database: Database) -> None:
    (schema,) = database.psql("select current_schema")
    indexes = database.psql(
        "select pg_get_indexdef(indexrelid) from pg_index "
        "where indrelid = 'ticket_allocations'::regclass"
    )
    for name, columns in {
        "idx_ticket_allocations_user_fingerprint_status": "(user_fingerprint, status)",
        "idx_ticket_allocations_event_id": "(event_id)",
        "idx_ticket_allocations_status": "(status)",
        "idx_ticket_allocations_expires_at": "(expires_at)",
    }.items():
        whole = f"CREATE INDEX {name} ON {schema}.ticket_allocations USING btree {columns}"
        assert whole in indexes


EVENT = "insert into events (name, date, total_tickets, allocated_tickets, purchased_tickets)"
TICKET = "insert into ticket_allocations (event_id, user_fingerprint, status, expires_at, position)"


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (f"{EVENT} values ('x', now(), 5, 6, 0)", "events_never_oversold"),
        (f"{EVENT} values ('x', now(), 5, -1, 0)", "events_never_allocate_below_zero"),
        (f"{EVENT} values ('x', now(), 5, 2, 3)", "events_purchase_only_what_is_allocated"),
        (f"{EVENT} values ('x', now(), 5, 2, -1)", "events_never_purchase_below_zero"),
        (f"{EVENT} values ('x', now(), 0, 0, 0)", "events_have_tickets"),
        (f"{EVENT} values (e' \\t', now(), 5, 0, 0)", "events_have_a_name"),
        (f"{EVENT} values (repeat('x', 256), now(), 5, 0, 0)", "events_have_a_name"),
        (f"{EVENT} values ('one', '2030-01-01', 5, 0, 0)", "events_are_unique_by_name_and_date"),
        ("update events set version = 0", "events_begin_at_version_one"),
        ("update events set revision = 0", "events_begin_at_revision_one"),
        (
            "update events set sale_opens_at = '2030-01-01', sale_closes_at = '2030-01-01'",
            "sales_open_before_they_close",
        ),
        ("update events set hold_seconds = 0", "holds_last_a_second_to_a_year"),
        ("update events set max_hold_seconds = 0", "longest_holds_last_a_second_to_a_year"),
        (
            "update events set hold_seconds = 2, max_hold_seconds = 1",
            "longest_holds_are_not_shorter_than_holds",
        ),
        ("update events set max_tickets_per_person = 0", "each_person_may_have_a_ticket"),
        (
            "insert into event_ledger (event_id, version, total_tickets, allocated_tickets,"
            " purchased_tickets, reserved, last_event)"
            " select id, 2, 5, 0, 0, -1, 'reserved' from events",
            "ledger_moves_are_never_negative",
        ),
        ("update events set total_tickets = 1, allocated_tickets = 2", "events_never_oversold"),
        (f"{TICKET} values (gen_random_uuid(), 'a', 'expired', now(), 1)", "tickets_belong_to"),
        (f"{TICKET} select id, '', 'expired', now(), 1 from events", "tickets_have_an_owner"),
        (
            f"{TICKET} select id, 'a', 'reserved', null, 1 from events",
            "reserved_tickets_have_an_end",
        ),
        (
            f"{TICKET} select id, 'a', 'purchased', now(), 1 from events",
            "purchased_tickets_have_no",
        ),
        (f"{TICKET} select id, 'a', 'expired', now(), 0 from events", "tickets_are_numbered_from"),
        (f"{TICKET} select id, 'a', 'sold', now(), 1 from events", "allocation_status"),
        ("delete from events", "belong"),
        ("update event_ledger set allocated_tickets = 0", "append-only"),
        ("update event_ledger set allocated_tickets = 0 where false", "append-only"),
        ("delete from event_ledger", "append-only"),
        ("truncate event_ledger", "append-only"),
        ("truncate events cascade", "append-only"),
    ],
)
def test_psql_is_refused_what_the_rules_forbid(database: Database, sql: str, rule: str) -> None:
    database.psql("insert into events (name, date, total_tickets) values ('one', '2030-01-01', 5)")
    assert rule in database.psql_error(sql)


def test_two_tickets_of_a_reservation_have_two_positions(database: Database) -> None:
    database.psql("insert into events (name, date, total_tickets) values ('one', '2030-01-01', 5)")
    doubled = (
        "insert into ticket_allocations (event_id, user_fingerprint, status, reservation_id) "
        "select id, 'alice', 'expired', id from events, generate_series(1, 2)"
    )
    assert "reservations_number_each_ticket_once" in database.psql_error(doubled)


@pytest.mark.parametrize("table", ["events", "ticket_allocations"])
def test_updated_at_follows_a_change_by_hand(unbalanced_database: Database, table: str) -> None:
    database = unbalanced_database
    database.psql(
        "insert into events (name, date, total_tickets) values ('one', '2030-01-01', 5);"
        "insert into ticket_allocations (event_id, user_fingerprint, status) "
        "select id, 'alice', 'expired' from events"
    )
    column = {"events": "total_tickets = 6", "ticket_allocations": "user_fingerprint = 'bob'"}[
        table
    ]
    database.psql(f"update {table} set {column}")
    assert database.psql(f"select updated_at > created_at from {table}") == ["t"]
    # Nor does it go back, whatever somebody types.
    database.psql(f"update {table} set updated_at = '2000-01-01'")
    assert database.psql(f"select updated_at > created_at from {table}") == ["t"]


def test_an_event_made_by_hand_opens_its_ledger(database: Database) -> None:
    database.psql("insert into events (name, date, total_tickets) values ('one', '2030-01-01', 5)")
    opened = "select version, total_tickets, allocated_tickets, last_event, actor from event_ledger"
    assert database.psql(opened) == ["1|5|0|created|"]


def test_a_name_typed_into_psql_is_stored_in_nfc(database: Database) -> None:
    database.psql(
        r"insert into events (name, date, total_tickets) values (E'Cafe\u0301', '2030-01-01', 5);"
        "insert into events (name, date, total_tickets) values ('other', '2030-01-01', 5)"
    )
    assert database.psql("select count(*) from events where name = 'Caf\u00e9'") == ["1"]
    rename = r"update events set name = E'Cafe\u0301' where name = 'other'"
    assert "events_are_unique_by_name_and_date" in database.psql_error(rename)
