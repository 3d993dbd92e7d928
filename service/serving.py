"""Serving: starts the database, the workers and the HTTP server, and stops them in order.

The parent process starts the embedded PostgreSQL, checks the database and starts the workers.
With one worker, the parent is the worker.
"""

import errno
import logging
import os
import signal
import socket
import time
from types import FrameType

import psycopg
import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service import limits, metrics
from service.app import create_app
from service.database.connections import (
    PLAIN_POSTGRES,
    Environment,
    conninfo,
    is_pooler_address,
    loggable_dsn,
)
from service.database.grants import lacks_rights
from service.database.migrations import migrate, pending_migrations
from service.database.startup_checks import check_database, check_statements
from service.database.statements import Statements, load_statements
from service.embedded.parent import stop_with_parent
from service.embedded.postgres import EmbeddedPostgres
from service.log_output import stderr_output
from service.logs import configure_logs
from service.settings import Settings, is_loopback, read_settings
from service.temporary import remove_abandoned_folders
from service.web.protocol import Protocol

log = logging.getLogger(__name__)

# Environment variables that the parent sets for its workers: the database's URL, the parent's pid,
# whether the database is behind a pooler, and whether it is Citus (an empty value means no).
_DSN, _PARENT = "HOLDFAST_WORKER_DSN", "HOLDFAST_WORKER_PARENT"
_POOLED, _CITUS = "HOLDFAST_WORKER_POOLED", "HOLDFAST_WORKER_CITUS"


class CannotServe(Exception):
    """The service or a command cannot start. The message is one line that says what to do."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, send the responses to accepted requests, and return.

    Raises:
        CannotServe, DatabaseUnfit, EmbeddedError, BrokenStatement: with a message of one line.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Before uvicorn starts, a signal raises SystemExit here, so that every ``finally`` runs.
        # uvicorn handles both signals while it serves, and raises them again after it has stopped.
        signal.signal(number, _exit)
    try:
        _open_database_and_serve(settings)
    except SystemExit as stop:
        if stop.code:
            raise CannotServe("the service could not start: see the error above") from None
    _print("holdfast stopped")


def _open_database_and_serve(settings: Settings) -> None:
    """Check DATABASE_URL or start the embedded PostgreSQL, and serve."""
    configure_logs(settings.log_level, settings.log_format == "json")
    remove_abandoned_folders()
    statements = load_statements(settings.sql_dir)
    if settings.database_url is not None:
        environment = _check(settings.database_url, statements, settings.workers)
        notes = ", behind a pooler" if environment.is_behind_pooler else ""
        notes += ", on Citus" if environment.is_citus else ""
        _print(f"database: {loggable_dsn(settings.database_url)}{notes}")
        _serve_http(settings, settings.database_url, environment)
        return
    with EmbeddedPostgres(settings.data_dir) as postgres:
        dsn = postgres.dsn
        if dsn is None:
            raise CannotServe(f"PostgreSQL in {postgres.cluster} stopped during the start: retry")
        migrate(dsn, statements)
        _check(dsn, statements, settings.workers)
        _print(f"database: an embedded PostgreSQL in {postgres.cluster}")
        with postgres.keep_running():
            _serve_http(settings, dsn)


def worker() -> Starlette:
    """Return the application of one worker process, which stops with its parent."""
    stop_with_parent(int(os.environ[_PARENT]), signal.SIGTERM)()
    metrics.keep_folder()
    settings = read_settings()
    configure_logs(settings.log_level, settings.log_format == "json")
    environment = Environment(bool(os.environ[_POOLED]), bool(os.environ[_CITUS]))
    return create_app(settings, os.environ[_DSN], environment)


def server_config(settings: Settings, app: Starlette | str) -> uvicorn.Config:
    """Return uvicorn's configuration, which is the same with one worker and with several."""
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
        timeout_graceful_shutdown=limits.GRACEFUL_SHUTDOWN_SECONDS,
    )


def _check(dsn: str, statements: Statements, workers: int) -> Environment:
    """Check that the database is reachable, durable, migrated, and grants the needed rights."""
    try:
        behind_pooler = is_pooler_address(dsn, statements)
        with psycopg.connect(
            conninfo(dsn, behind_pooler=behind_pooler), autocommit=True
        ) as connection:
            server = check_database(connection, statements, workers)
            try:
                if pending := pending_migrations(connection, statements):
                    raise CannotServe(f"the database lacks {_names(pending)}: run holdfast migrate")
                check_statements(connection, statements)
                lacking = lacks_rights(connection, statements)
            except psycopg.errors.InsufficientPrivilege:
                lacking = True
            if lacking:
                role = connection.info.user
                raise CannotServe(f"{role} lacks rights: run holdfast grant {role} as the owner")
    except psycopg.OperationalError as error:
        raise CannotServe(
            f"the database cannot be reached: {loggable_dsn(dsn)}: {_reason(error)}; "
            "start it, or correct DATABASE_URL"
        ) from None
    return Environment(behind_pooler, server.is_citus)


def _names(pending: list[str]) -> str:
    if len(pending) == 1:
        return f"the migration {pending[0]}"
    return f"{len(pending)} migrations, the first is {pending[0]}"


def _reason(error: psycopg.OperationalError) -> str:
    """Return the reason that libpq gives, without the addresses that it tried."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rpartition(" failed: ")[2].removeprefix("FATAL:").strip()


def _serve_http(settings: Settings, dsn: str, environment: Environment = PLAIN_POSTGRES) -> None:
    """Serve HTTP until a signal to stop, in this process or in several workers."""
    if settings.workers == 1:
        config = server_config(settings, create_app(settings, dsn, environment))
        listening = bind(settings)
        _print_addresses(settings, listening)
        uvicorn.Server(config).run([listening])
        return
    os.environ[_DSN], os.environ[_PARENT] = dsn, str(os.getpid())
    os.environ[_POOLED] = "yes" if environment.is_behind_pooler else ""
    os.environ[_CITUS] = "yes" if environment.is_citus else ""
    config = server_config(settings, "service.serving:worker")
    listening = bind(settings)
    _print_addresses(settings, listening)
    with metrics.multiprocess_mode():
        supervisor = Supervisor(config, [listening])
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise CannotServe("a worker could not start: see the error above")


class Supervisor(Multiprocess):
    """Starts the workers, and stops them within a time limit."""

    def terminate_all(self) -> None:
        """Stop the workers, and listen no more in this process.

        The workers go on listening for a while. When they have closed their copies of the socket,
        this one would still connect clients, whom nobody would serve.
        """
        super().terminate_all()
        for listening in self.sockets:
            listening.close()

    def join_all(self) -> None:
        """Wait until the workers have ended, and kill those that take too long.

        Their own limits on a shutdown end it earlier, unless a worker does not run.
        """
        deadline = time.monotonic() + limits.STOP_WORKERS_SECONDS
        for worker in self.processes:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.exitcode is None:
                log.error("worker %s was killed: it did not stop in time", worker.pid)
                worker.kill()
        super().join_all()


def bind(settings: Settings) -> socket.socket:
    """Return the socket that all workers accept connections from.

    Raises:
        CannotServe: when the address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise CannotServe(_bind_error(settings, error)) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit this timeout; it disconnects a client that reads nothing.
        milliseconds = int(limits.TCP_USER_TIMEOUT_SECONDS * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    listening.set_inheritable(True)
    return listening


def _bind_error(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {settings.port} is in use: stop what uses it, or set PORT"
    if error.errno == errno.EACCES:
        return f"port {settings.port} needs root: set PORT to 1024 or higher"
    return f"HOST={settings.host} is invalid: expected an address of this machine: {error.strerror}"


def _print_addresses(settings: Settings, listening: socket.socket) -> None:
    """Print the addresses of the service, and a warning if anyone could act as an organizer."""
    port = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # A browser cannot open 0.0.0.0 or [::], which mean every address of this machine.
    page = f"http://{'localhost' if settings.host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104
    _print(f"holdfast serves http://{host}:{port} with {settings.workers} worker(s)")
    _print(f"box office: {page}/")
    _print(f"API documentation: {page}/docs")
    if settings.organizer_token is None and not is_loopback(settings.host):
        _print(
            "warning: anyone who can reach the service can act as an organizer: set ORGANIZER_TOKEN"
        )


def _print(line: str) -> None:
    stderr_output().write(f"{line}\n".encode())


def _exit(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)
