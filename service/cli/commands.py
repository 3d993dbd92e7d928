"""The commands: what each does with its parsed arguments."""

import argparse
import difflib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from service.cli.audit import audit, audit_as_json, finish_audit, print_audit
from service.cli.demo.demo import demo
from service.cli.errors import CommandFailed
from service.cli.forget import forget
from service.cli.sql_headers import BrokenHeader, parse_header, psql_line
from service.database.grants import TooManyRights, grant
from service.database.migrations import (
    BehindPooler,
    CreatedBefore02,
    MigrationsLocked,
    ServicesConnected,
    migrate,
    yoyo_url,
)
from service.database.startup_checks import DatabaseUnfit
from service.database.statements import BrokenStatement, Statement, Statements, load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import EmbeddedError, find_programs
from service.serving import CannotServe, serve
from service.settings import Settings, SettingsError, read_settings

# A user can correct these. They end a command with one line on stderr and exit code 1.
EXPECTED_ERRORS = (
    BehindPooler,
    BrokenHeader,
    BrokenStatement,
    CannotServe,
    CommandFailed,
    DatabaseUnfit,
    EmbeddedError,
    CreatedBefore02,
    MigrationsLocked,
    ServicesConnected,
    TooManyRights,
    SettingsError,
)
REMEDIES: Mapping[type[psycopg.Error], str] = {
    psycopg.errors.UndefinedTable: "run holdfast migrate",
    psycopg.errors.InsufficientPrivilege: "connect as the owner of the tables",
    psycopg.errors.LockNotAvailable: "run the command again",
    psycopg.errors.QueryCanceled: "run the command again",
}


class UsageError(Exception):
    """An argument is wrong. The message is one line that says what to do."""


def run(parsed: argparse.Namespace) -> int:
    """Run a command and return its exit code.

    Raises:
        UsageError: when there is no such statement or parameter.
    """
    try:
        # Options override variables, also for the workers, which read the variables again.
        for name in ("host", "port"):
            if (value := getattr(parsed, name, None)) is not None:
                os.environ[name.upper()] = str(value)
        code = ACTIONS[parsed.command](read_settings(), parsed)
        sys.stdout.flush()
    except EXPECTED_ERRORS as error:
        return _fail(str(error))
    except psycopg.Error as error:
        return _fail(_describe(error))
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _fail(message: str, code: int = 1) -> int:
    print(f"holdfast: {message}", file=sys.stderr)
    return code


def _describe(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if error.sqlstate is None:
        return f"the database cannot be reached: {lines[0]}; start it, or correct DATABASE_URL"
    remedy = REMEDIES.get(type(error))
    return f"the database refuses: {lines[0]}{f': {remedy}' if remedy else ''}"


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    serve(settings)
    return 0


def _migrate(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        applied = migrate(dsn, load_statements(settings.sql_dir), force=parsed.force)
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("nothing to apply")
    return 0


def _dsn(settings: Settings, parsed: argparse.Namespace) -> int:
    dsn = settings.database_url or EmbeddedPostgres(settings.data_dir).dsn
    if dsn is None:
        raise CommandFailed(
            f"no embedded PostgreSQL runs in {settings.data_dir}: "
            "start it with holdfast serve, or set DATABASE_URL"
        )
    print(yoyo_url(dsn) if parsed.yoyo else dsn)
    return 0


def _sql(settings: Settings, parsed: argparse.Namespace) -> int:
    statements = load_statements(settings.sql_dir)
    if parsed.name is None:
        for statement in statements.values():
            summary = textwrap.shorten(parse_header(statement).summary, 75)
            print(f"{statement.name:24} {summary}")
        return 0
    statement = _find_statement(statements, parsed.name)
    values = _parse_values(statement, parsed.values)
    if not parsed.explain:
        print(psql_line(statement, _shorten_path(settings.sql_dir), values))
        return 0
    with _database(settings) as dsn, psycopg.connect(dsn) as connection:
        parameters = {**parse_header(statement).example, **values}
        for (line,) in connection.execute(statement.explained, parameters):
            print(line)
        connection.rollback()
    return 0


def _find_statement(statements: Statements, name: str) -> Statement:
    """Return a statement by its name, which may be the path of its file."""
    name = name.removesuffix(".sql").rpartition("/")[2]
    if name not in list(statements):
        matches = difflib.get_close_matches(name, list(statements), n=1)
        remedy = f"did you mean {matches[0]}?" if matches else "list all with holdfast sql"
        raise UsageError(f"unknown statement {name}: {remedy}")
    return statements[name]


def _parse_values(statement: Statement, arguments: list[str]) -> Mapping[str, str]:
    """Return the values of parameters by name."""
    values = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            raise UsageError(f"{argument} is invalid: expected key=value")
        if key not in statement.types:
            known = ", ".join(statement.types) or "no parameters"
            raise UsageError(f"{statement.name} has no parameter {key}: it has {known}")
        values[key] = value
    return values


def _audit(settings: Settings, parsed: argparse.Namespace) -> int:
    statements = load_statements(settings.sql_dir)
    with _database(settings) as dsn:
        result = finish_audit(audit(dsn, statements))
    if parsed.json:
        print(audit_as_json(result))
    else:
        print_audit(result, Console())
    return 1 if result.failed else 0


def _demo(settings: Settings, parsed: argparse.Namespace) -> int:
    return 0 if demo(parsed.seconds, settings.sql_dir, parsed.picture) else 1


def _grant(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        try:
            grants = grant(dsn, load_statements(settings.sql_dir), parsed.role)
        except psycopg.errors.UndefinedObject as error:
            remedy = "create it first, with the SQL command CREATE ROLE"
            raise CommandFailed(f"{error.diag.message_primary}: {remedy}") from None
    for statement in grants:
        print(f"{statement};")
    return 0


def _forget(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        tickets, events = forget(dsn, load_statements(settings.sql_dir), parsed.fingerprint)
    print(f"replaced the fingerprint of {tickets} ticket(s) of {events} event(s)")
    return 0


def _shorten_path(folder: Path) -> Path:
    """Return a path, relative to the current folder if the path is inside that."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _psql(settings: Settings, parsed: argparse.Namespace) -> int:
    # The embedded psql has the version of the embedded server. It is also used for another
    # database if no other psql is installed.
    uses_embedded_psql = settings.database_url is None or shutil.which("psql") is None
    program = find_programs()["psql"] if uses_embedded_psql else "psql"
    signal.signal(signal.SIGINT, lambda *_: None)  # psql handles Ctrl-C: it cancels a statement
    with _database(settings) as dsn:
        parts = conninfo_to_dict(dsn)
        # All users of the machine can read a program's arguments, but not its environment.
        secret = {"PGPASSWORD": str(parts.pop("password"))} if parts.get("password") else {}
        dbname = make_conninfo("", **{key: str(value) for key, value in parts.items()})
        # Not exec: an embedded PostgreSQL that this process started must be stopped afterwards.
        return subprocess.call(
            [program, f"--dbname={dbname}", *parsed.arguments], env={**os.environ, **secret}
        )


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Give the URL of the database. The embedded PostgreSQL runs while the block runs."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.data_dir) as postgres:
        if postgres.dsn is None:
            raise CommandFailed(
                f"PostgreSQL in {postgres.cluster} stopped while it was starting: try again"
            )
        yield postgres.dsn


ACTIONS: Mapping[str, Callable[[Settings, argparse.Namespace], int]] = {
    "serve": _serve,
    "demo": _demo,
    "migrate": _migrate,
    "psql": _psql,
    "dsn": _dsn,
    "sql": _sql,
    "audit": _audit,
    "grant": _grant,
    "forget": _forget,
}
