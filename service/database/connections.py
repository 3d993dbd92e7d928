"""The connections: how they are made and kept, and what the database's values become."""

import datetime
import functools
import re
import select
from typing import Any, NamedTuple

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from service import limits
from service.database.statements import Statements


class NearestTimeLoader(Loader):
    """Reads a time; one that Python cannot hold becomes the nearest it can.

    ``infinity``, or a year before 1 or after 9999, can only come from psql, and must not make
    an event unreadable.
    """

    def load(self, data: Buffer) -> datetime.datetime:
        """Return the time in UTC, which every connection of ours has as its time zone."""
        return _read_time(bytes(data))


@functools.lru_cache(maxsize=1024)  # the rows of one statement have their times in common
def _read_time(data: bytes) -> datetime.datetime:
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
    """Writes a list of texts or of whole numbers as an array (PostgreSQL's manual, 8.15.6).

    Every parameter is cast where it stands, so that its elements need no looking at, and a
    batch of hundreds has some thousands of them.
    """

    def dump(self, obj: list[Any]) -> bytes:
        """Return the array's text."""
        if not obj or isinstance(obj[0], int):
            return f"{{{','.join(map(str, obj))}}}".encode()
        if None in obj:
            return f"{{{','.join(map(_array_element, obj))}}}".encode()
        # All at once, which is faster than one by one.
        escaped = "\0".join(obj).replace("\\", "\\\\").replace('"', '\\"')
        return ('{"' + escaped.replace("\0", '","') + '"}').encode()


def _array_element(text: str | None) -> str:
    if text is None:
        return "null"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    # By its value an int would go as int2, int4 or int8, and one file be prepared three times.
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(list, ArrayDumper)
    adapters.register_loader("uuid", TextLoader)
    adapters.register_loader("timestamptz", NearestTimeLoader)
    return adapters


ADAPTERS = _adapters()


# For the write path: its statements are planned once for each connection and not once for each
# batch, which halves the time of a single reservation. A plan may be made while the tables are
# empty, and must still be the one for large tables: row by row, by index.
STEADY_PLANS = (
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_mergejoin=off -c jit=off"
)
# Citus chooses the node by the parameters, so it refuses a plan without them: "could not create
# distributed plan".
STEADY_PLANS_ON_CITUS = "-c enable_seqscan=off -c enable_mergejoin=off -c jit=off"


def conninfo(
    dsn: str,
    options: str = "",
    statement_seconds: float = limits.STATEMENT_SECONDS,
    *,
    pooled: bool = False,
) -> str:
    """Return the DSN with what every connection of the service has in common.

    A peer that is gone without a word is noticed by TCP within the deadline, and what runs
    outside of a batch is bounded by ``statement_timeout``; 0 for no bound. A pooler takes no
    options: what is to hold behind it is said in each transaction (``pipeline``).
    """
    given = conninfo_to_dict(dsn)
    hosts = str(given.get("host") or "").count(",") + 1
    # Said and not assumed, whatever the server's default: under REPEATABLE READ what is read
    # after the lock would be as old as the transaction.
    options += (
        " -c TimeZone=UTC -c DateStyle=ISO -c default_transaction_isolation=read\\ committed"
        f" -c statement_timeout={int(statement_seconds * 1000)}"
    )
    by_default: dict[str, str | int] = {
        "application_name": "holdfast",
        "client_encoding": "UTF8",
        # libpq gives each host its own time.
        "connect_timeout": max(2, limits.CONNECT_SECONDS // hosts),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": 5000,
    }
    # The user's own options stay, such as the search_path of one organiser.
    options = f"{given.get('options') or ''} {options}".strip()
    missing = {name: value for name, value in by_default.items() if name not in given}
    if not pooled:
        missing["options"] = options
    return make_conninfo(dsn, **missing)


def open_pool(
    dsn: str, size: int, waiting: int, options: str = "", *, pooled: bool = False
) -> AsyncConnectionPool:
    """Return a pool, not yet open, of up to ``size`` connections for ``waiting`` who wait."""
    return AsyncConnectionPool(
        conninfo(dsn, options, pooled=pooled),
        kwargs={
            "autocommit": True,
            # Behind a pooler the next transaction may meet a server that knows no name of ours.
            "prepare_threshold": None if pooled else 0,
            "context": ADAPTERS,
        },
        check=_check,
        open=False,
        min_size=1,
        max_size=size,
        max_waiting=waiting,
        timeout=limits.POOL_SECONDS,
        reconnect_timeout=limits.RECONNECT_SECONDS,
    )


async def _check(connection: psycopg.AsyncConnection) -> None:
    """Refuse a connection that has died while it lay in the pool, without asking the server.

    A server that ends, or ends us, leaves a last word or an end of file on the socket. An idle
    connection has nothing to be read otherwise, so that one look tells; the round trip that
    the pool's own check makes would be paid by every batch.
    """
    looked = select.poll()
    looked.register(connection.fileno(), select.POLLIN)
    if looked.poll(0):
        # Closed and not only refused: the pool would keep one that still looks alive.
        await connection.close()
        raise psycopg.OperationalError("the connection has ended while it was idle")


NO_CONNECTION = (PoolTimeout, TooManyRequests, PoolClosed)
"""What the pool raises: nothing was sent."""

NO_ANSWER = (*NO_CONNECTION, TimeoutError)
"""What a query may raise beside PostgreSQL's own errors."""


def has_broken(error: psycopg.Error) -> bool:
    """Whether an error is the end of its connection, so that nobody knows what was committed.

    An error that PostgreSQL reports has an SQLSTATE and undoes its transaction, but for those
    that end the connection itself: class 08, and 57P01 to 57P05 (Appendix A of its manual).
    """
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def loggable(error: psycopg.Error) -> str:
    """Return what a log may know of an error: not its detail, which may be a row of a ticket."""
    return f"{type(error).__name__} {error.sqlstate} {error.diag.message_primary}"


class Environment(NamedTuple):
    """What stands between the service and its tables, as far as it changes how they are used."""

    is_pooled: bool = False
    """Whether a transaction pooler stands in front of PostgreSQL."""
    is_citus: bool = False

    @property
    def write_options(self) -> str:
        """The options of the write path's connections."""
        return STEADY_PLANS_ON_CITUS if self.is_citus else STEADY_PLANS


PLAIN = Environment()


def is_pooled(connection: psycopg.Connection, statements: Statements) -> bool:
    """Whether a pooler, such as PgBouncer, stands between a connection and PostgreSQL."""
    named = {"process": connection.info.backend_pid}
    row = connection.execute(statements["find_pooler"].query, named).fetchone()
    return bool(row and row[0])


def stands_behind_pooler(dsn: str, statements: Statements) -> bool:
    """Whether a pooler stands between us and PostgreSQL, as ``is_pooled`` tells."""
    with psycopg.connect(conninfo(dsn, pooled=True), autocommit=True) as connection:
        return is_pooled(connection, statements)


def shown(dsn: str) -> str:
    """Return where a database lives, for people: never a password."""
    parts = conninfo_to_dict(dsn)
    host = parts.get("host") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{host}{port}, database {parts.get('dbname') or parts.get('user') or 'by default'}"
