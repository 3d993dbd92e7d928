"""Migrating: yoyo's files and yoyo's records, safe against company and against a kill.

yoyo applies a migration in one transaction and marks it in another, and its own lock is a row
that outlives whoever is killed. Here a migration and its mark are one transaction, and an
advisory lock, which ends with its connection, lets one process migrate at a time.
"""

import getpass
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict
from yoyo import get_backend, read_migrations

from service.database.connections import is_pooled
from service.database.statements import Statements
from service.settings import resource

WAIT_SECONDS = 60
# The first migration of version 0.1. Version 0.2 replaced all of them, under other names.
FIRST_BEFORE_0_2 = "0001_events"


class MigrationsLocked(Exception):
    """Another process has been migrating this database for too long."""


class MadeBefore02(Exception):
    """The database was made by the migrations before version 0.2. The text says what to do."""


class BehindPooler(Exception):
    """A pooler stands in front of the database. The text says what to do."""


def migration_names(folder: Path | None = None) -> list[str]:
    """Return the names of all migrations that this version brings, in their order."""
    files = (folder or resource("migrations")).glob("*.sql")
    return sorted(file.stem for file in files if not file.name.endswith(".rollback.sql"))


def pending_migrations(connection: psycopg.Connection, statements: Statements) -> list[str]:
    """Return the names of the migrations that this database does not have, in their order.

    Raises:
        MadeBefore02: when it has those of an earlier version, which no longer exist.
    """
    applied = _applied_migrations(connection, statements)
    return [name for name in migration_names() if name not in applied]


def _applied_migrations(connection: psycopg.Connection, statements: Statements) -> set[str]:
    try:
        rows = connection.execute(statements["list_applied_migrations"].query).fetchall()
    except psycopg.errors.UndefinedTable:
        return set()
    applied = {name for (name,) in rows}
    if FIRST_BEFORE_0_2 in applied:
        raise MadeBefore02(
            "this database was made before version 0.2, whose migrations cannot change it: create "
            "a new database or, for the embedded one, move DATA_DIR away"
        )
    return applied


def migrate(dsn: str, statements: Statements) -> Sequence[str]:
    """Apply what is pending, each migration whole or not at all, and return the names.

    Raises:
        BehindPooler: when a pooler would keep our lock after we have gone.
        MadeBefore02: when the database was made before version 0.2.
        MigrationsLocked: when another process does not get done.
        psycopg.Error: when a migration fails; those before it stay applied.
    """
    _have_a_name()
    with psycopg.connect(dsn, autocommit=True) as connection:
        if is_pooled(connection, statements):
            raise BehindPooler(
                "a pooler stands in front of the database, and a lock of a whole connection does "
                "not hold behind it: give DATABASE_URL the address of PostgreSQL itself"
            )
        _become_the_one(connection, statements)
        _applied_migrations(connection, statements)  # refuses a database made before 0.2
        backend = get_backend(yoyo_url(dsn))
        with backend:
            backend.break_lock()  # left by one that was killed: we are the only one now
            with backend.lock():
                pending = backend.to_apply(read_migrations(str(resource("migrations"))))
                for migration in pending:
                    migration.load()
                    if migration.use_transactions:
                        with backend.transaction():
                            migration.process_steps(backend, "apply")
                            backend.mark_one(migration)
                    else:
                        backend.apply_one(migration)
        return [migration.id for migration in pending]


def yoyo_url(dsn: str) -> str:
    """Return a libpq URL in yoyo's form.

    Its scheme names the driver; all else goes along as a query, since yoyo takes a URL apart
    that only libpq understands: one with several hosts, or with the folder of a socket.
    """
    return f"postgresql+psycopg:///?{urlencode(conninfo_to_dict(dsn))}"


def _have_a_name() -> None:
    """See to it that yoyo can record who migrates: a container's bare uid has no name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = "holdfast"


def _become_the_one(connection: psycopg.Connection, statements: Statements) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        row = connection.execute(statements["lock_migrations"].query).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > deadline:
            raise MigrationsLocked(f"another process has been migrating for {WAIT_SECONDS} s")
        time.sleep(0.05)
