"""Serving: from the settings to a socket that answers, and back to nothing.

The parent process has the embedded PostgreSQL, checks the database, and starts the workers;
with one worker it is the worker itself.
"""

import ipaddress
import os
import signal
import socket
import sys
from types import FrameType

import psycopg
import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from service import limits, metrics
from service.app import create_app
from service.database.connections import (
    PLAIN,
    Environment,
    conninfo,
    shown,
    stands_behind_pooler,
)
from service.database.fitness import check_database, check_statements
from service.database.grants import lacks_rights
from service.database.migrations import migrate, pending_migrations
from service.database.statements import Statements, load_statements
from service.embedded.parent import ending_with
from service.embedded.postgres import EmbeddedPostgres
from service.logs import configure_logs
from service.settings import Settings, read_settings
from service.web.protocol import Protocol

_DSN, _PARENT = "HOLDFAST_WORKER_DSN", "HOLDFAST_WORKER_PARENT"
"""Tell the workers where the database is, which is known only once it runs, and who we are."""
_POOLED, _CITUS = "HOLDFAST_WORKER_POOLED", "HOLDFAST_WORKER_CITUS"
"""Tell them, unless they are empty, that a pooler stands in front of it, and that it is Citus."""


class CannotServe(Exception):
    """The service does not start. The text is one line that says what to do."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted, and return.

    Raises:
        CannotServe, DatabaseUnfit, EmbeddedError, BrokenStatement: one line each.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts its own in place while it serves, and raises the signal again when it
        # is done: then, as before it began, this unwinds the stack, past every finally.
        signal.signal(stop, _leave)
    configure_logs(settings.log_level, settings.log_format == "json")
    statements = load_statements(settings.sql_dir)
    if settings.database_url is not None:
        environment = _check(settings.database_url, statements, settings.workers)
        behind = ", behind a pooler" if environment.is_pooled else ""
        behind += ", on Citus" if environment.is_citus else ""
        _say(f"database: {shown(settings.database_url)}{behind}")
        _listen(settings, settings.database_url, environment)
        return
    with EmbeddedPostgres(settings.data_dir) as postgres:
        dsn = postgres.dsn
        if dsn is None:
            raise CannotServe(f"PostgreSQL in {postgres.cluster} went away while it started")
        migrate(dsn, statements)
        _check(dsn, statements, settings.workers)
        _say(f"database: an embedded PostgreSQL in {postgres.cluster}")
        with postgres.kept():
            _listen(settings, dsn)


def worker() -> Starlette:
    """Return the application of one worker process, which ends when its parent does."""
    ending_with(int(os.environ[_PARENT]), signal.SIGTERM)()
    settings = read_settings()
    configure_logs(settings.log_level, settings.log_format == "json")
    environment = Environment(bool(os.environ[_POOLED]), bool(os.environ[_CITUS]))
    return create_app(settings, os.environ[_DSN], environment)


def server_config(settings: Settings, app: Starlette | str) -> uvicorn.Config:
    """Return uvicorn's configuration, the same with one worker and with several."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        log_level="error",
        timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=limits.DRAIN_SECONDS,
    )


def _check(dsn: str, statements: Statements, workers: int) -> Environment:
    """Refuse a database that cannot be reached, cannot be trusted, or is not ready for us."""
    try:
        pooled = stands_behind_pooler(dsn, statements)
        with psycopg.connect(conninfo(dsn, pooled=pooled), autocommit=True) as connection:
            server = check_database(connection, statements, workers)
            try:
                if pending := pending_migrations(connection, statements):
                    raise CannotServe(f"the database lacks {_named(pending)}: run holdfast migrate")
                check_statements(connection, statements)
                lacking = lacks_rights(connection, statements)
            except psycopg.errors.InsufficientPrivilege:
                lacking = True
            if lacking:
                role = connection.info.user
                raise CannotServe(f"{role} lacks rights: run holdfast grant {role} as the owner")
    except psycopg.OperationalError as error:
        raise CannotServe(f"the database cannot be reached: {shown(dsn)}: {_why(error)}") from None
    return Environment(pooled, server.is_citus)


def _named(pending: list[str]) -> str:
    if len(pending) == 1:
        return f"the migration {pending[0]}"
    return f"{len(pending)} migrations, the first is {pending[0]}"


def _why(error: psycopg.OperationalError) -> str:
    """Return the reason that libpq gives, without every address that it tried."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0].rpartition(" failed: ")[2].removeprefix("FATAL:").strip()


def _listen(settings: Settings, dsn: str, environment: Environment = PLAIN) -> None:
    if settings.workers == 1:
        config = server_config(settings, create_app(settings, dsn, environment))
        listening = bind(settings)
        _announce(settings, listening)
        server = uvicorn.Server(config)
        server.run([listening])
        if not server.started:
            raise CannotServe("the service could not be started")
        return
    os.environ[_DSN], os.environ[_PARENT] = dsn, str(os.getpid())
    os.environ[_POOLED] = "yes" if environment.is_pooled else ""
    os.environ[_CITUS] = "yes" if environment.is_citus else ""
    config = server_config(settings, "service.serving:worker")
    listening = bind(settings)
    _announce(settings, listening)
    with metrics.collecting():
        Multiprocess(config, [listening]).run()


def bind(settings: Settings) -> socket.socket:
    """Return the socket that all workers accept from."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise CannotServe(
            f"HOST={settings.host} PORT={settings.port} cannot be listened on: {error.strerror}; "
            "set others"
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Each connection inherits it: who takes nothing any more is not waited for.
        stall = int(limits.STALL_SECONDS * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall)
    listening.set_inheritable(True)
    return listening


def _announce(settings: Settings, listening: socket.socket) -> None:
    """Say where the service is reached, and who may do too much there."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = listening.getsockname()[1]
    _say(f"holdfast serves http://{host}:{port} with {settings.workers} worker(s)")
    if settings.organizer_token is None and not _is_loopback(settings.host):
        _say("everybody who can reach it may organise: ORGANIZER_TOKEN is not set")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)
