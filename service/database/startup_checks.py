"""Checks of the database that run when the service starts."""

import logging
import time
from typing import NamedTuple

import psycopg

from service import limits
from service.database.statements import BrokenStatement, Statements

log = logging.getLogger(__name__)

# server_version_num of PostgreSQL 15.0.
OLDEST_VERSION = 150_000


class DatabaseUnfit(Exception):
    """The database cannot be used. The text is one line with the reason and the remedy."""


class Server(NamedTuple):
    """The row that ``check_server.sql`` returns."""

    version_number: int
    version: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    is_standby: bool
    encoding: str
    has_standbys: bool  # synchronous ones: synchronous_standby_names is set
    connections: int  # how many all clients together may open
    clock: float  # Unix time in seconds
    date_style: str
    is_citus: bool
    # Whether a search finds all letters in upper and lower case, whatever the database's locale.
    knows_all_letters: bool
    # How long the server takes to detect a client that vanished; 0 for a Unix socket, whose client
    # cannot vanish.
    lost_client_seconds: int


def check_database(
    connection: psycopg.Connection, statements: Statements, workers: int = 1
) -> Server:
    """Check the server's version and settings, and return them.

    Too few connections, a wrong clock, a search that depends on the database's locale and slow
    detection of lost clients are only logged as warnings.

    Raises:
        DatabaseUnfit: the service cannot write to it, or a sold ticket could be lost.
    """
    row = connection.execute(statements["check_server"].query).fetchone()
    assert row is not None  # noqa: S101 - a select without from has one row
    server = Server(*row)
    check_server(server)
    needed = workers * limits.WORKER_CONNECTIONS
    if server.connections < needed:
        log.warning(
            "max_connections allows %d connections, and %d worker(s) may need %d: raise it or set "
            "fewer WORKERS, or requests may be refused as BUSY",
            *(server.connections, workers, needed),
        )
    if abs(skew := server.clock - time.time()) > limits.MAX_CLOCK_SKEW_SECONDS:
        log.warning(
            "the database's clock differs from this machine's by %+.0f s, and holds expire by the "
            "database's clock: synchronize both",
            skew,
        )
    if not server.knows_all_letters:
        log.warning(
            "this PostgreSQL is older than 18 and was built without ICU, so a search by name knows "
            "upper and lower case only by the database's locale: use 18 or newer, or one with ICU"
        )
    if server.lost_client_seconds > limits.MAX_LOST_CLIENT_SECONDS:
        # Only behind a pooler: other connections bring their own settings.
        log.warning(
            "PostgreSQL detects a lost client only after %d s, and until then an event may stay "
            "locked: set tcp_keepalives_idle=5, tcp_keepalives_interval=2, tcp_keepalives_count=2 "
            "and tcp_user_timeout=5s in postgresql.conf, since they cannot be set through a pooler",
            server.lost_client_seconds,
        )
    return server


def check_server(server: Server) -> None:
    """Check that the service can write to a server, and that a commit survives a crash.

    Raises:
        DatabaseUnfit: with the reason.
    """
    if server.version_number < OLDEST_VERSION:
        raise DatabaseUnfit(f"PostgreSQL {server.version} is too old: use 15 or newer")
    if server.is_standby:
        raise DatabaseUnfit("this PostgreSQL is a read-only standby: use its primary")
    if server.encoding != "UTF8":
        raise DatabaseUnfit(
            f"the database's encoding is {server.encoding}: create one with encoding UTF8"
        )
    if not server.date_style.startswith("ISO"):
        raise DatabaseUnfit(
            f"DateStyle is {server.date_style}, which cannot be set through a pooler: run "
            "alter role … set datestyle = 'ISO'"
        )
    for name, is_on in (
        ("fsync", server.fsync),
        ("full_page_writes", server.full_page_writes),
        ("synchronous_commit", server.synchronous_commit != "off"),
    ):
        if not is_on:
            raise DatabaseUnfit(f"{name} is off: a crash could lose sold tickets; set it to on")
    if server.has_standbys and server.synchronous_commit == "local":
        raise DatabaseUnfit(
            "synchronous_commit is local: a failover to a standby of synchronous_standby_names "
            "could lose sold tickets; set it to on"
        )


def check_statements(connection: psycopg.Connection, statements: Statements) -> None:
    """Check that the server can parse every statement with the current schema.

    Raises:
        BrokenStatement: for the first statement that it cannot parse, with its message.
    """
    for statement in statements.values():
        result = connection.pgconn.prepare(b"", statement.numbered)
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            message = psycopg.errors.error_from_result(result).diag.message_primary
            raise BrokenStatement(f"PostgreSQL cannot parse {statement.name}.sql: {message}")
