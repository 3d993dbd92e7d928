"""Migrations: applied with yoyo, safe against concurrent runs and against being killed.

yoyo applies a migration in one transaction and records it in another, and its lock is a row that
stays when the process is killed. Here a migration and its record are one transaction, and an
advisory lock, which ends with its connection, lets one process migrate at a time.
"""

import getpass
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from yoyo import get_backend, read_migrations

from service.database.connections import APPLICATION_NAME, uses_pooler
from service.database.statements import Statements
from service.settings import resource

# How long to wait while another process is migrating.
WAIT_SECONDS = 60
# The header line of a migration on which the previous version's services would not work correctly:
# they must be stopped first.
_NEEDS_STOP = re.compile(r"^-- Runs while the version before it serves: no\b", re.MULTILINE)
# The first migration of version 0.1. Version 0.2 replaced all of them with others.
FIRST_MIGRATION_OF_0_1 = "0001_events"


class MigrationsLocked(Exception):
    """Another process has been migrating this database for too long. The text is one line."""


class ServicesConnected(Exception):
    """Services are connected that a pending migration would break. The text says what to do."""


class CreatedBefore02(Exception):
    """The database was created before version 0.2. The text says what to do."""


class BehindPooler(Exception):
    """The database is reached through a pooler. The text says what to do."""


def migration_names(folder: Path | None = None) -> list[str]:
    """Return the names of all migrations of this version, in their order."""
    files = (folder or resource("migrations")).glob("*.sql")
    return sorted(file.stem for file in files if not file.name.endswith(".rollback.sql"))


def pending_migrations(connection: psycopg.Connection, statements: Statements) -> list[str]:
    """Return the names of the migrations that are not applied to this database, in their order.

    Raises:
        CreatedBefore02: the database was created before version 0.2.
    """
    applied = _applied_migrations(connection, statements)
    return [name for name in migration_names() if name not in applied]


def _applied_migrations(connection: psycopg.Connection, statements: Statements) -> set[str]:
    try:
        rows = connection.execute(statements["list_applied_migrations"].query).fetchall()
    except psycopg.errors.UndefinedTable:
        return set()
    applied = {name for (name,) in rows}
    if FIRST_MIGRATION_OF_0_1 in applied:
        raise CreatedBefore02(
            "this database was created before version 0.2 and cannot be migrated: create a new "
            "database or, for the embedded one, move DATA_DIR away"
        )
    return applied


def migrate(dsn: str, statements: Statements, *, force: bool = False) -> Sequence[str]:
    """Apply all pending migrations, each in its own transaction, and return their names.

    Args:
        dsn: the address of the database.
        statements: the statements.
        force: whether to apply also those that break the services which are connected.

    Raises:
        BehindPooler: the DSN is that of a pooler. It keeps its connections to the server open, and
            one of them would keep the advisory lock after this process has ended.
        CreatedBefore02: the database was created before version 0.2.
        MigrationsLocked: another process has been migrating for WAIT_SECONDS.
        ServicesConnected: a pending migration would break them; nothing is applied.
        psycopg.Error: a migration failed; those before it stay applied.
    """
    _ensure_user_name()
    services = str(conninfo_to_dict(dsn).get("application_name", APPLICATION_NAME))
    dsn = make_conninfo(dsn, application_name="holdfast migrate")  # not counted as a service
    with psycopg.connect(dsn, autocommit=True) as connection:
        if uses_pooler(connection, statements):
            raise BehindPooler(
                "DATABASE_URL is the address of a pooler, through which the lock of migrations "
                "does not work: set it to the address of PostgreSQL itself"
            )
        _lock(connection, statements)
        applied = _applied_migrations(connection, statements)  # raises CreatedBefore02
        if applied and not force:  # no service can run on a database without migrations
            _refuse_if_connected(connection, statements, services, applied)
        backend = get_backend(yoyo_url(dsn))
        with backend:
            # We hold the advisory lock, so a lock of yoyo was left by a killed process.
            backend.break_lock()
            with backend.lock():
                pending = backend.to_apply(read_migrations(str(resource("migrations"))))
                for migration in pending:
                    migration.load()
                    if migration.use_transactions:
                        with backend.transaction():
                            migration.process_steps(backend, "apply")
                            backend.mark_one(migration)
                    else:
                        # It builds indexes concurrently, which a transaction may not contain. It
                        # can run again if it is killed before its record is written.
                        backend.apply_one(migration)
        return [migration.id for migration in pending]


def _refuse_if_connected(
    connection: psycopg.Connection, statements: Statements, services: str, applied: set[str]
) -> None:
    """Raise ServicesConnected if a pending migration would break services that are connected.

    Args:
        connection: to the database.
        statements: the statements.
        services: the application_name of the services.
        applied: the names of the migrations that are applied.
    """
    query = statements["list_service_connections"].query
    connections = len(connection.execute(query, {"name": services}).fetchall())
    breaking = [
        name
        for name in migration_names()
        if name not in applied
        and _NEEDS_STOP.search((resource("migrations") / f"{name}.sql").read_text())
    ]
    if connections and breaking:
        raise ServicesConnected(
            f"migration {breaking[0]} would break the services of the version before it, and "
            f"{connections} connection(s) of services are open: stop the services, or run holdfast "
            "migrate --force"
        )


def yoyo_url(dsn: str) -> str:
    """Return the yoyo URL of a DSN.

    Its scheme names the driver. All parameters are in its query, because yoyo cannot parse URLs
    with several hosts or with the folder of a socket.
    """
    return f"postgresql+psycopg:///?{urlencode(conninfo_to_dict(dsn))}"


def _ensure_user_name() -> None:
    """Set USER if the user has no name, as in a container: yoyo records who migrates."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = "holdfast"


def _lock(connection: psycopg.Connection, statements: Statements) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        row = connection.execute(statements["lock_migrations"].query).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > deadline:
            raise MigrationsLocked(
                f"another process has been migrating for {WAIT_SECONDS} s: wait until it ends, or "
                "end it, and try again"
            )
        time.sleep(0.05)
