"""The actions: what each command does, once it is understood.

It is loaded only then: what it stands on takes half a second, for which neither --help nor the
Tab key should wait.
"""

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

from service.cli.audit import audit, audit_as_json, print_audit, shown_audit
from service.cli.demo.demo import demo
from service.cli.forget import forget
from service.cli.sql_headers import BrokenHeader, parse_header, psql_line
from service.database.fitness import DatabaseUnfit
from service.database.grants import TooManyRights, grant
from service.database.migrations import (
    BehindPooler,
    MadeBefore02,
    MigrationsLocked,
    migrate,
    yoyo_url,
)
from service.database.statements import BrokenStatement, Statement, Statements, load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import EmbeddedError, find_programs
from service.serving import CannotServe, serve
from service.settings import Settings, SettingsError, read_settings

ONE_LINERS = (
    BehindPooler,
    BrokenHeader,
    BrokenStatement,
    CannotServe,
    DatabaseUnfit,
    EmbeddedError,
    MadeBefore02,
    MigrationsLocked,
    TooManyRights,
    SettingsError,
)
"""What ends a command with one line on stderr and exit code 1: somebody outside can mend it."""


class NotUnderstood(Exception):
    """An argument is none that the command could know. The text is one line with the remedy."""


def run(parsed: argparse.Namespace) -> int:
    """Run a command that was understood, and return its exit code.

    Raises:
        NotUnderstood: when there is no such statement or parameter.
    """
    try:
        code = ACTIONS[parsed.command](read_settings(), parsed)
        sys.stdout.flush()
    except ONE_LINERS as error:
        return _told(f"{error}", 1)
    except psycopg.Error as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        how = "cannot be reached" if error.sqlstate is None else "refuses"
        return _told(f"the database {how}: {said[0]}", 1)
    except KeyboardInterrupt:
        return _told("stopped", 130)
    except BrokenPipeError:  # who reads us, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _told(line: str, code: int) -> int:
    print(f"holdfast: {line}", file=sys.stderr)
    return code


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    serve(settings)
    return 0


def _migrate(settings: Settings, _: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        applied = migrate(dsn, load_statements(settings.sql_dir))
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("nothing to apply")
    return 0


def _dsn(settings: Settings, parsed: argparse.Namespace) -> int:
    dsn = settings.database_url or EmbeddedPostgres(settings.data_dir).dsn
    if dsn is None:
        raise CannotServe(f"no embedded PostgreSQL runs in {settings.data_dir}")
    print(yoyo_url(dsn) if parsed.yoyo else dsn)
    return 0


def _sql(settings: Settings, parsed: argparse.Namespace) -> int:
    statements = load_statements(settings.sql_dir)
    if parsed.name is None:
        for statement in statements.values():
            summary = textwrap.shorten(parse_header(statement).summary, 75)
            print(f"{statement.name:24} {summary}")
        return 0
    statement = _statement(statements, parsed.name)
    given = _given(statement, parsed.values)
    if not parsed.explain:
        print(psql_line(statement, _shown_folder(settings.sql_dir), given))
        return 0
    with _database(settings) as dsn, psycopg.connect(dsn) as connection:
        plan = connection.execute(statement.explained, {**parse_header(statement).example, **given})
        for (row,) in plan:
            print(row)
        connection.rollback()
    return 0


def _statement(statements: Statements, name: str) -> Statement:
    name = name.removesuffix(".sql").rpartition("/")[2]
    known = list(statements)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"the nearest is {near[0]}" if near else "holdfast sql lists all"
        raise NotUnderstood(f"there is no statement {name}; {meant}")
    return statements[name]


def _given(statement: Statement, values: list[str]) -> Mapping[str, str]:
    given = {}
    for one in values:
        key, found, given[key] = one.partition("=")
        if not found:
            raise NotUnderstood(f"{one} is not understood: key=value is")
        if key not in statement.types:
            known = ", ".join(statement.types) or "none"
            raise NotUnderstood(f"{statement.name} has no parameter {key}; it has {known}")
    return given


def _audit(settings: Settings, parsed: argparse.Namespace) -> int:
    statements = load_statements(settings.sql_dir)
    with _database(settings) as dsn:
        done = shown_audit(audit(dsn, statements))
    if parsed.json:
        print(audit_as_json(done))
    else:
        print_audit(done, Console())
    return 1 if done.failed else 0


def _demo(settings: Settings, parsed: argparse.Namespace) -> int:
    return 0 if demo(parsed.seconds, settings.sql_dir, parsed.picture) else 1


def _grant(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        try:
            granted = grant(dsn, load_statements(settings.sql_dir), parsed.role)
        except psycopg.errors.UndefinedObject as error:
            raise CannotServe(f"{error.diag.message_primary}: create role comes first") from None
    for statement in granted:
        print(f"{statement};")
    return 0


def _forget(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        tickets, events = forget(dsn, load_statements(settings.sql_dir), parsed.fingerprint)
    print(f"{tickets} ticket(s) of {events} event(s) no longer tell whose they are")
    return 0


def _shown_folder(folder: Path) -> Path:
    """Return a folder as it is shortest from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _psql(settings: Settings, parsed: argparse.Namespace) -> int:
    # The embedded one's own for the embedded one: it is of the same version.
    ours = settings.database_url is None or shutil.which("psql") is None
    program = find_programs()["psql"] if ours else "psql"
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for psql, to cancel a statement
    with _database(settings) as dsn:
        parts = conninfo_to_dict(dsn)
        # What a program is called with, everybody on the machine can read.
        secret = {"PGPASSWORD": str(parts.pop("password"))} if parts.get("password") else {}
        shown = make_conninfo("", **{key: str(value) for key, value in parts.items()})
        # Not by exec: the embedded PostgreSQL that we started has to be stopped afterwards.
        return subprocess.call(
            [program, f"--dbname={shown}", *parsed.arguments], env={**os.environ, **secret}
        )


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Give the URL of the database; the embedded one runs for as long as it is needed."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.data_dir) as postgres:
        if postgres.dsn is None:
            raise CannotServe(f"PostgreSQL in {postgres.cluster} went away as it started")
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
