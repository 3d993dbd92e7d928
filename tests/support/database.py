"""A database for each test, with psql and direct connections to it."""

import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from service.database.grants import grant
from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.programs import find_programs
from service.settings import resource
from tests.support.waiting import wait_until

# The role that the services under test connect as.
SERVICE_ROLE = "holdfast_service"

# The path of PgBouncer. If it is set, the services under test connect through it.
PGBOUNCER = os.environ.get("HOLDFAST_TEST_PGBOUNCER", "")
# Only a part of the socket's name.
POOLER_PORT = 6432

# The URL of a server that has the template already. `python -m tests.mutants` sets it, so that not
# each mutant needs a server of its own.
SHARED_SERVER = os.environ.get("HOLDFAST_TEST_SERVER", "")
# The name of a database that has all migrations and no rows.
TEMPLATE = "template_of_tests"

DATABASE_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """The database of one test."""

    # Connects as the owner of all its objects.
    dsn: str
    is_on_citus: ClassVar[bool] = False

    @property
    def service_dsn(self) -> str:
        """Connects as the role with exactly the rights that the service needs."""
        dsn = self.dsn.replace("//holdfast@", f"//{SERVICE_ROLE}@")
        if self.is_behind_pooler:
            dsn = dsn.replace("/socket", f"/pooler&port={POOLER_PORT}")
        return dsn

    @property
    def is_behind_pooler(self) -> bool:
        """Whether the service connects through the pooler, which serves only the shared server."""
        return bool(PGBOUNCER and re.search(r"@/test_\d+\?host=[^&]*/socket$", self.dsn))

    def psql(self, sql: str) -> list[str]:
        """Run SQL in psql and return its lines; columns are separated by ``|``."""
        process = self.try_psql(sql)
        assert process.returncode == 0, process.stderr
        return process.stdout.splitlines()

    def try_psql(
        self, sql: str, *arguments: str, role: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run SQL in psql and return the finished process, whether it failed or not."""
        return subprocess.run(
            [
                find_programs()["psql"],
                *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
                *("-v", "ON_ERROR_STOP=1", f"--dbname={self.dsn}", *arguments),
            ],
            input=(f"set role {role};" if role else "") + sql,
            capture_output=True,
            text=True,
            check=False,
        )

    def connect(self) -> psycopg.Connection:
        """Open a connection that is not one of the service's, named ``stranger``."""
        return psycopg.connect(self.dsn, application_name="stranger")

    def psql_error(self, sql: str) -> str:
        """Run SQL that must fail, and return psql's error message."""
        process = self.try_psql(sql)
        assert process.returncode != 0, f"this SQL should fail: {sql}"
        return process.stderr

    def insert_event(self, tickets: int, name: str = "Opening night") -> str:
        """Insert an event and return its id."""
        (id_,) = self.psql(
            "insert into events (name, date, total_tickets) "
            f"values ('{name}', '2030-01-01', {tickets}) returning id"
        )
        return id_

    @contextmanager
    def lock_event(self, event_id: str) -> Iterator[psycopg.Connection]:
        """Lock an event's row for as long as the block runs; then commit."""
        with self.connect() as rival:
            rival.execute("select from events where id = %s for update", [event_id])
            yield rival

    def wait_until_blocked(self, count: int = 1, application: str = "holdfast") -> None:
        """Wait until at least ``count`` connections of an application wait for a lock."""
        wait_until(
            lambda: (
                int(
                    self.psql(
                        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' "
                        f"and application_name = '{application}' and datname = current_database()"
                    )[0]
                )
                >= count
            ),
            f"no connection of {application!r} waits for a lock: see sql/lock_events.sql",
        )

    def check_books(self) -> None:
        """Assert for every event: counters = rows = last ledger row = sum of the ledger."""
        check = f"\\i {resource('sql') / 'check_events.sql'}"
        process = self.try_psql(check, "--set=event_ids={}", "--set=failed_only=true")
        assert (process.stdout, process.stderr) == ("", "")

    def expire_hold(self, ticket_id: str) -> None:
        """Set the end of a hold to a second ago."""
        self.psql(
            "update ticket_allocations set expires_at = statement_timestamp() - interval '1 s' "
            f"where id = '{ticket_id}'"
        )


def create_template(server: str) -> str:
    """Create the template and the service's role; return the template's name."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {TEMPLATE}".encode())
        connection.execute(f"create role {SERVICE_ROLE} login".encode())
    dsn = make_conninfo(server, dbname=TEMPLATE)
    statements = load_statements(resource("sql"))
    migrate(dsn, statements)
    grant(dsn, statements, SERVICE_ROLE)
    return TEMPLATE


@contextmanager
def create_database(server: str, template: str = "template1") -> Iterator[Database]:
    """Create a database from a template; drop it when the block ends."""
    name = f"test_{next(DATABASE_NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}".encode())
        yield Database(server.replace("/holdfast?", f"/{name}?"))
        connection.execute(f"drop database {name} with (force)".encode())


class SpareDatabases:
    """Migrated databases without rows, each used by one test after another.

    Creating and dropping a database took half of the time of most tests.

    Args:
        server: the URL of the server.
        template: the name of a migrated database without rows.
    """

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        # Each database with the context that drops it, and its state before the first test.
        self._spare: list[tuple[Database, ExitStack, str]] = []

    @contextmanager
    def use(self) -> Iterator[Database]:
        """Yield a database; drop it afterwards if the test has changed more than its rows."""
        if self._spare:
            database, context, state = self._spare.pop()
        else:
            context = ExitStack()
            database = context.enter_context(create_database(self._server, self._template))
            state = _read_state(database)
        try:
            yield database
        finally:
            if _empty_tables(database) and _read_state(database) == state:
                self._spare.append((database, context, state))
            else:
                context.close()

    def close(self) -> None:
        """Drop all databases."""
        for _, context, _ in self._spare:
            context.close()


# A row of the catalog that was written again has another xmin. pg_class has columns that change
# with the rows of a table.
_CATALOGS = """
    pg_attrdef pg_attribute pg_constraint pg_default_acl pg_enum pg_event_trigger pg_extension
    pg_index pg_namespace pg_operator pg_policy pg_proc pg_publication pg_rewrite pg_sequence
    pg_statistic pg_statistic_ext pg_trigger pg_type _yoyo_migration yoyo_lock
"""
_STATE = " union all ".join(
    [
        "select 'pg_class' || (oid, relname, relowner, relacl, reloptions, relrowsecurity)::text"
        " as row from pg_class",
        "select 'pg_database' || xmin from pg_database where datname = current_database()",
        "select 'setting' || xmin from pg_db_role_setting",
        *(f"select '{name}' || ctid || xmin from {name}" for name in _CATALOGS.split()),
    ]
)


def _read_state(database: Database) -> str:
    """Return a hash of everything in a database but the rows of its tables."""
    with psycopg.connect(database.dsn) as connection:
        query = f"select md5(string_agg(row, ',' order by row)) from ({_STATE}) as state"
        ((state,),) = connection.execute(query.encode()).fetchall()
    return str(state)


def _empty_tables(database: Database) -> bool:
    """Delete all rows and reset the statistics; return False if that is not possible at once."""
    try:
        with psycopg.connect(database.dsn) as connection:
            ((others,),) = connection.execute(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid() and backend_type = 'client backend'"
            ).fetchall()
            if others:
                return False
            connection.execute("set lock_timeout = '1s'")
            # The ledger's trigger forbids it.
            connection.execute("set session_replication_role = replica")
            connection.execute("truncate events, event_private, ticket_allocations, event_ledger")
            connection.execute("select pg_stat_reset()")
    except psycopg.Error:
        return False
    return True


def skip_if_pooled(reason: str) -> pytest.MarkDecorator:
    """Return the mark of a test that is not possible through a pooler."""
    return pytest.mark.skipif(bool(PGBOUNCER), reason=f"not possible through a pooler: {reason}")
