"""The fitness of a database: what is checked when the service starts."""

import logging
import time
from typing import NamedTuple

import psycopg

from service import limits
from service.database.statements import BrokenStatement, Statements

log = logging.getLogger(__name__)

OLDEST_VERSION = 150_000
"""server_version_num of PostgreSQL 15.0."""


class DatabaseUnfit(Exception):
    """The database cannot be trusted with tickets. The text is one line that says why."""


class Server(NamedTuple):
    """What ``check_server`` tells of a PostgreSQL."""

    version_number: int
    version: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    is_standby: bool
    encoding: str
    has_standbys: bool
    connections: int
    """How many may be open at once, all clients together."""
    clock: float
    """In seconds of Unix time."""
    date_style: str
    is_citus: bool


def check_database(
    connection: psycopg.Connection, statements: Statements, workers: int = 1
) -> Server:
    """Check that the server can be trusted, warn of what will be troublesome, and return it.

    Raises:
        DatabaseUnfit: for what could lose a ticket that a buyer was already told is theirs.
    """
    row = connection.execute(statements["check_server"].query).fetchone()
    assert row is not None  # noqa: S101 - a select without from has one row
    server = Server(*row)
    refuse_what_loses_tickets(server)
    needed = workers * limits.CONNECTIONS
    if server.connections < needed:
        log.warning(
            "max_connections leaves %d, and %d worker(s) may need %d: some will be told BUSY",
            *(server.connections, workers, needed),
        )
    if abs(ahead := server.clock - time.time()) > limits.CLOCK_SECONDS:
        log.warning("the server's clock is %+.0f s from ours: holds end by the server's", ahead)
    return server


def refuse_what_loses_tickets(server: Server) -> None:
    """Refuse a server that cannot be written to, or might forget what it has committed.

    Raises:
        DatabaseUnfit: with the reason.
    """
    number, version, fsync, full_page_writes, synchronous_commit, is_standby, encoding, *_ = server
    if number < OLDEST_VERSION:
        raise DatabaseUnfit(f"PostgreSQL {version} is too old: 15 or newer is needed")
    if is_standby:
        raise DatabaseUnfit("this PostgreSQL is a standby: it cannot be written to")
    if encoding != "UTF8":
        raise DatabaseUnfit(f"its encoding is {encoding}: names need a database in UTF8")
    if not server.date_style.startswith("ISO"):
        raise DatabaseUnfit(
            f"its DateStyle is {server.date_style}, and a pooler lets us set none: "
            "alter role … set datestyle = 'ISO'"
        )
    for name, value in (
        ("fsync", fsync),
        ("full_page_writes", full_page_writes),
        ("synchronous_commit", synchronous_commit != "off"),
    ):
        if not value:
            raise DatabaseUnfit(
                f"{name} is off: a crash could lose tickets that buyers were told are theirs"
            )
    if server.has_standbys and synchronous_commit == "local":
        raise DatabaseUnfit(
            "synchronous_commit is local: a failover to the standby that synchronous_standby_names "
            "names could lose tickets that buyers were told are theirs"
        )


def check_statements(connection: psycopg.Connection, statements: Statements) -> None:
    """Have the server parse every statement against the schema.

    Raises:
        BrokenStatement: for the first one it does not understand, with what it says.
    """
    for statement in statements.values():
        result = connection.pgconn.prepare(b"", statement.numbered)
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            said = psycopg.errors.error_from_result(result).diag.message_primary
            raise BrokenStatement(f"{statement.name}.sql is not understood by PostgreSQL: {said}")
