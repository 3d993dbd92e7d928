"""Connections to PostgreSQL: their options, their pools, and the conversion of values."""

import asyncio
import contextlib
import datetime
import functools
import logging
import os
import re
import select
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from service import limits, metrics
from service.database.statements import Statements

log = logging.getLogger(__name__)


class NearestTimeLoader(Loader):
    """Loads a timestamptz; a time outside Python's range becomes the nearest time in the range.

    The API refuses ``infinity`` and years before 1 or after 9999, but they can be stored with
    psql. The event must still be readable.
    """

    def load(self, data: Buffer) -> datetime.datetime:
        """Return the time in UTC."""
        return _parse_time(bytes(data))


@functools.lru_cache(maxsize=1024)  # many rows have the same time
def _parse_time(data: bytes) -> datetime.datetime:
    text = data.decode()
    try:
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except ValueError:
        if text == "-infinity" or text.endswith(" BC"):
            return datetime.datetime.min.replace(tzinfo=datetime.UTC)
        if text == "infinity" or re.match(r"\d{5,}-", text):
            return datetime.datetime.max.replace(tzinfo=datetime.UTC)
        raise


class ArrayDumper(Dumper):
    """Dumps a list of strings or integers as an array (PostgreSQL's manual, section 8.15.6).

    psycopg's own dumper inspects each element to find the array's type, which takes long for the
    thousands in a batch. Here every statement casts its parameters, so no type is needed.
    """

    def dump(self, obj: list[Any]) -> bytes:
        """Return the array's text."""
        if not obj or isinstance(obj[0], int):
            return f"{{{','.join(map(str, obj))}}}".encode()
        if None in obj:
            return f"{{{','.join(map(_array_element, obj))}}}".encode()
        # Replacing in one joined string is faster than in each element. No element
        # contains the separator: PostgreSQL cannot store NUL, and the API refuses it.
        escaped = "\0".join(obj).replace("\\", "\\\\").replace('"', '\\"')
        return ('{"' + escaped.replace("\0", '","') + '"}').encode()


def _array_element(text: str | None) -> str:
    if text is None:
        return "null"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    # psycopg would send an int as int2, int4 or int8 by its value, and prepare one statement
    # three times.
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(list, ArrayDumper)
    adapters.register_loader("uuid", TextLoader)
    adapters.register_loader("timestamptz", NearestTimeLoader)
    return adapters


ADAPTERS = _adapters()


# The name of the service's connections in PostgreSQL, unless DATABASE_URL sets another.
APPLICATION_NAME = "holdfast"

# Options of the write path's connections. A generic plan is made once for a connection and not for
# each batch, which halves the time of a single reservation. It may be made while the tables are
# empty and must still be good when they are large. Without sequential scans and merge joins, the
# planner chooses index scans and nested loops.
PLAN_OPTIONS = (
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c jit=off"
)
# Citus needs the parameters to choose the node, so a generic plan fails: "could not create
# distributed plan".
PLAN_OPTIONS_ON_CITUS = "-c enable_seqscan=off -c enable_mergejoin=off -c jit=off"
# With these, PostgreSQL detects within seconds that a client vanished without closing the
# connection; libpq's parameters in ``conninfo`` do the same for a vanished server. By default, a
# server that has received only a part of a batch waits two hours for the rest, and the batch's
# events stay locked. tcp_user_timeout covers a connection with unacknowledged data, which
# keep-alive does not probe. On a Unix socket they have no effect.
KEEPALIVE_OPTIONS = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=2"
    " -c tcp_user_timeout=5000"
)


def conninfo(
    dsn: str,
    options: str = "",
    statement_seconds: float = limits.STATEMENT_SECONDS,
    *,
    behind_pooler: bool = False,
) -> str:
    """Return the DSN with the parameters that all connections of the service have in common.

    The TCP parameters detect a server that vanished without closing the connection: the kernel
    waits 5 s for an acknowledgment and probes idle connections.

    Args:
        dsn: the DSN as set by the user. Its parameters are kept, and so are its options, except
            those that the service sets itself.
        options: further options of libpq, such as ``-c jit=off``.
        statement_seconds: the statement_timeout outside of batches; 0 for none.
        behind_pooler: whether the DSN is that of a pooler. A pooler accepts no options, so each
            transaction sets what it needs (``pipeline``).
    """
    given = conninfo_to_dict(dsn)
    hosts = str(given.get("host") or "").count(",") + 1
    # Never use the server's default isolation level: under REPEATABLE READ, a transaction that has
    # waited for a lock would still read the snapshot of its first statement.
    options += (
        " -c TimeZone=UTC -c DateStyle=ISO -c default_transaction_isolation=read\\ committed"
        f" -c statement_timeout={int(statement_seconds * 1000)}"
    )
    defaults: dict[str, str | int] = {
        "application_name": APPLICATION_NAME,
        "client_encoding": "UTF8",
        # libpq tries one host after the other, each with this timeout.
        "connect_timeout": max(2, limits.CONNECT_SECONDS // hosts),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": 5000,
    }
    added = {name: value for name, value in defaults.items() if name not in given}
    if not behind_pooler:
        # If an option occurs twice, PostgreSQL uses the last value: the user's options, such as
        # search_path, override KEEPALIVE_OPTIONS, and are overridden by ``options``.
        added["options"] = f"{KEEPALIVE_OPTIONS} {given.get('options') or ''} {options}"
    return make_conninfo(dsn, **added)


class Pool(AsyncConnectionPool):
    """A pool that replaces connections which are closed or hang.

    It replaces a connection that the server has closed while it was idle. The pool's own ``check``
    would do so too, but it pauses for about a second after the first closed connection that it
    finds. A request waits only POOL_SECONDS for a connection, so after a restart of the server the
    next requests would be refused as BUSY.

    It gives up a connection that is in use for more than GIVE_UP_SECONDS, that is, it closes it.
    TCP alone does not notice every lost server: a pooler in between acknowledges what the service
    sends, even if no response will ever come.

    Attributes:
        is_waiting_for_standby: asks the server whether a commit waits for a standby. While one
            does, no connection is given up. None: do not ask.
    """

    is_waiting_for_standby: Callable[[], Awaitable[bool]] | None = None

    def __init__(self, conninfo: str, **options: Any) -> None:
        super().__init__(conninfo, **options)
        # For each connection in use, the timer that gives it up.
        self._timers: dict[psycopg.AsyncConnection, asyncio.TimerHandle] = {}
        self._giving_up: set[asyncio.Task[None]] = set()

    async def getconn(  # the pool's own signature
        self,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> psycopg.AsyncConnection:
        """Return a connection that was open a moment ago.

        Args:
            timeout: in seconds; None for that of the pool.

        Raises:
            PoolTimeout, TooManyRequests, PoolClosed: there is none.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            connection = await super().getconn(max(0.0, deadline - time.monotonic()))
            if not _was_closed_by_server(connection):
                self._start_timer(connection)
                return connection
            await connection.close()
            await self.putconn(connection)

    async def putconn(self, connection: psycopg.AsyncConnection) -> None:
        """Return a connection to the pool, which closes it if it is broken."""
        if timer := self._timers.pop(connection, None):
            timer.cancel()
        await super().putconn(connection)

    async def close(  # the pool's own signature
        self,
        timeout: float = limits.CLOSE_POOL_SECONDS,  # noqa: ASYNC109
    ) -> None:
        """Close the pool. The service closes several, one after the other."""
        await super().close(timeout)

    def _start_timer(self, connection: psycopg.AsyncConnection) -> None:
        def give_up() -> None:
            task = asyncio.ensure_future(self._give_up(connection))
            self._giving_up.add(task)  # the event loop keeps only weak references
            task.add_done_callback(self._giving_up.discard)

        loop = asyncio.get_running_loop()
        self._timers[connection] = loop.call_later(limits.GIVE_UP_SECONDS, give_up)

    async def _give_up(self, connection: psycopg.AsyncConnection) -> None:
        """End a connection in use, unless its server only waits for a standby."""
        is_waiting = self.is_waiting_for_standby and await self.is_waiting_for_standby()
        if connection not in self._timers:
            return  # the response came meanwhile
        if is_waiting:
            self._start_timer(connection)
            return
        log.warning(
            "a connection of the pool %s was closed: no response for %g s",
            *(self.name, limits.GIVE_UP_SECONDS),
        )
        metrics.CONNECTIONS_GIVEN_UP.labels(self.name).inc()
        _end(connection)


def _was_closed_by_server(connection: psycopg.AsyncConnection) -> bool:
    """Return whether the server has closed an idle connection, without asking it.

    A server that ends the connection leaves a message or an end of file on the socket, and nothing
    else is to be read from an idle connection. So polling the socket is enough, and saves every
    batch a round trip.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _end(connection: psycopg.AsyncConnection) -> None:
    """End a connection as the server would, so that the waiting task gets an error.

    Canceling the waiting task instead would ask the server to cancel the statement, and wait.
    """
    with (
        contextlib.suppress(OSError),  # the network has ended it already
        socket.socket(fileno=os.dup(connection.fileno())) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)


def create_pool(
    dsn: str,
    name: str,
    max_size: int,
    max_waiting: int,
    options: str = "",
    *,
    behind_pooler: bool = False,
) -> Pool:
    """Return a pool that is not open yet.

    Args:
        dsn: the address of the database.
        name: its name in the metrics and in the log.
        max_size: how many connections it has at most.
        max_waiting: how many tasks may wait for a connection at once.
        options: options of libpq for its connections.
        behind_pooler: whether the DSN is that of a pooler.
    """
    return Pool(
        conninfo(dsn, options, behind_pooler=behind_pooler),
        kwargs={
            "autocommit": True,
            # Behind a pooler the next transaction may run on another server connection, which
            # does not have the prepared statements of this one.
            "prepare_threshold": None if behind_pooler else 0,
            "context": ADAPTERS,
        },
        name=name,
        open=False,
        min_size=1,
        max_size=max_size,
        max_waiting=max_waiting,
        timeout=limits.POOL_SECONDS,
        reconnect_timeout=limits.RECONNECT_SECONDS,
    )


# Errors of the pool: there was no connection, and nothing was sent.
NOT_CONNECTED = (PoolTimeout, TooManyRequests, PoolClosed)

# Errors of a query besides those of PostgreSQL: no connection, or no response in time.
UNAVAILABLE = (*NOT_CONNECTED, TimeoutError)


def leaves_outcome_unknown(error: psycopg.Error) -> bool:
    """Whether this error leaves open if the transaction was committed or rolled back.

    An error without an SQLSTATE does, because PostgreSQL did not report it. After an error that it
    reported, the transaction is rolled back, but this is not certain if the error ended the
    connection: class 08, and 57P01 to 57P05 (Appendix A of PostgreSQL's manual).
    """
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def loggable(error: psycopg.Error) -> str:
    """Return the text of an error for the log, without its detail, which may contain a row."""
    return f"{type(error).__name__} {error.sqlstate} {error.diag.message_primary}"


class Environment(NamedTuple):
    """Properties of the database that change how connections are used."""

    is_behind_pooler: bool = False  # whether connections go through a transaction pooler
    is_citus: bool = False

    @property
    def write_options(self) -> str:
        """The options of libpq for the write path's connections."""
        return PLAN_OPTIONS_ON_CITUS if self.is_citus else PLAN_OPTIONS


PLAIN_POSTGRES = Environment()


def uses_pooler(connection: psycopg.Connection, statements: Statements) -> bool:
    """Whether a connection goes through a pooler, such as PgBouncer."""
    parameters = {"process": connection.info.backend_pid}
    row = connection.execute(statements["find_pooler"].query, parameters).fetchone()
    return bool(row and row[0])


def is_pooler_address(dsn: str, statements: Statements) -> bool:
    """Whether a DSN is the address of a pooler; connects to find out."""
    with psycopg.connect(conninfo(dsn, behind_pooler=True), autocommit=True) as connection:
        return uses_pooler(connection, statements)


def loggable_dsn(dsn: str) -> str:
    """Return host, port and database of a DSN for messages, without the password."""
    parts = conninfo_to_dict(dsn)
    host = parts.get("host") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{host}{port}, database {parts.get('dbname') or parts.get('user') or '(default)'}"
