"""Databases: one of each test's own, with psql and what a stranger does in it."""

import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from service.embedded.programs import find_programs
from service.settings import resource
from tests.support.waiting import wait_until

SERVICE_ROLE = "holdfast_service"
"""The role that the services under test connect as."""


PGBOUNCER = os.environ.get("HOLDFAST_TEST_PGBOUNCER", "")
"""PgBouncer's program: with it, what is under test reaches its database by way of one."""

POOLER_PORT = 6432
"""Only a part of the socket's name."""


NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """A database of one test's own."""

    dsn: str
    """As the owner of all that is in it."""

    @property
    def service_dsn(self) -> str:
        """As the role that has what the service needs, and no more."""
        dsn = self.dsn.replace("//holdfast@", f"//{SERVICE_ROLE}@")
        if self.is_pooled:
            dsn = dsn.replace("/socket", f"/pooler&port={POOLER_PORT}")
        return dsn

    @property
    def is_pooled(self) -> bool:
        """Whether the service reaches it by way of a pooler: one that all tests share may be."""
        return bool(PGBOUNCER and re.search(r"@/test_\d+\?host=[^&]*/socket$", self.dsn))

    def psql(self, sql: str) -> list[str]:
        """Run SQL in psql and return its lines; columns are separated by ``|``."""
        done = self.try_psql(sql)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def try_psql(
        self, sql: str, *arguments: str, role: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run SQL in psql as a person would, whatever comes of it."""
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
        """Open a connection of a stranger to the service."""
        return psycopg.connect(self.dsn, application_name="stranger")

    def psql_error(self, sql: str) -> str:
        """Run SQL that must fail, and return what psql says of it."""
        done = self.try_psql(sql)
        assert done.returncode != 0, f"not refused: {sql}"
        return done.stderr

    @contextmanager
    def lock_event(self, event_id: str) -> Iterator[psycopg.Connection]:
        """Hold an event's lock for as long as the block runs; its end commits."""
        with self.connect() as rival:
            rival.execute("select from events where id = %s for update", [event_id])
            yield rival

    def wait_until_blocked(self, how_many: int = 1, of: str = "holdfast") -> None:
        """Wait until so many connections of the service, or of another name, wait for a lock."""
        wait_until(
            lambda: (
                int(
                    self.psql(
                        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' "
                        f"and application_name = '{of}' and datname = current_database()"
                    )[0]
                )
                >= how_many
            ),
            f"{of} does not wait for a lock: is the event still locked (sql/lock_events.sql)?",
        )

    def check_books(self) -> None:
        """Assert counters = rows = the ledger's last row = the ledger's sum, for every event."""
        check = f"\\i {resource('sql') / 'check_events.sql'}"
        done = self.try_psql(check, "--set=event_ids={}", "--set=failed_only=true")
        assert (done.stdout, done.stderr) == ("", "")

    def expire_hold(self, ticket_id: str) -> None:
        """Let a hold's time be up."""
        self.psql(
            "update ticket_allocations set expires_at = clock_timestamp() - interval '1 s' "
            f"where id = '{ticket_id}'"
        )


@contextmanager
def create_database(server: str, template: str = "template1") -> Iterator[Database]:
    """Create a database of a template for as long as the block runs."""
    name = f"test_{next(NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            f"create database {name} template {template} strategy file_copy".encode()
        )
        yield Database(server.replace("/holdfast?", f"/{name}?"))
        connection.execute(f"drop database {name} with (force)".encode())


def skip_if_pooled(why: str) -> pytest.MarkDecorator:
    """Return the mark of a test that a pooler would get between."""
    return pytest.mark.skipif(bool(PGBOUNCER), reason=f"not by way of a pooler: {why}")
