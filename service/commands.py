"""The commands: ``holdfast`` and what it can do from a terminal."""

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.audit_report import print_audit, shown_audit
from service.auditing import audit
from service.database import DatabaseUnfit
from service.embedded import EmbeddedPostgres
from service.forgetting import forget
from service.grants import TooManyRights, grant
from service.migrations import BehindPooler, MigrationsLocked, migrate, yoyo_url
from service.programs import EmbeddedError, find_programs
from service.serving import CannotServe, serve
from service.settings import Settings, SettingsError, read_settings
from service.statements import BrokenStatement, load_statements

ONE_LINERS = (
    BehindPooler,
    BrokenStatement,
    CannotServe,
    DatabaseUnfit,
    EmbeddedError,
    MigrationsLocked,
    TooManyRights,
    SettingsError,
)
"""What ends a command with one line on stderr and exit code 1: somebody outside can mend it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 could not, 2 not understood."""
    parsed = _parser().parse_args(arguments)
    run: Callable[[Settings, argparse.Namespace], int] = parsed.run
    try:
        sys.exit(run(read_settings(), parsed))
    except ONE_LINERS as error:
        sys.exit(f"holdfast: {error}")
    except psycopg.Error as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        how = "cannot be reached" if error.sqlstate is None else "refuses"
        sys.exit(f"holdfast: the database {how}: {said[0]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="Hands out a limited number of tickets to a crowd, never one too many.",
        epilog="Settings are environment variables: docs/reference/settings.md lists them.",
    )
    parser.add_argument("--version", action="version", version=version("holdfast"))
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("serve", _serve, "serve; also what plain holdfast does")
    add("migrate", _migrate, "bring the database to this version's schema")
    dsn = add("dsn", _dsn, "print the database's URL")
    dsn.add_argument("--yoyo", action="store_true", help="in the form that yoyo takes")
    sql = add("sql", _sql, "list the statements, or print the psql line of one, or its plan")
    sql.add_argument("name", nargs="?", help="a statement; without it all are listed")
    sql.add_argument("values", nargs="*", metavar="key=value", help="of its parameters")
    sql.add_argument("--explain", action="store_true", help="run it, rolled back, for its plan")
    check = add("audit", _audit, "check every event's books; exit 1 when any does not add up")
    check.add_argument("--json", action="store_true", help="as one object of JSON")
    give = add("grant", _grant, "give a role what the service needs, and no more")
    give.add_argument("role", metavar="ROLE", help="an existing role, which is not the owner")
    lose = add("forget", _forget, "replace somebody's fingerprint everywhere by a random one")
    lose.prefix_chars = "\0"  # a fingerprint may begin with a dash
    lose.add_argument("fingerprint", metavar="FINGERPRINT", help="as it came with the requests")
    bench = add("bench", _bench, "measure the service against the textbook transaction")
    bench.add_argument("--json", action="store_true", help="the figures as JSON")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="draw tickets over clients, too")
    bench.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the median")
    bench.add_argument("--seconds", type=int, default=5, metavar="N", help="for each load")
    bench.add_argument(
        "--trial",
        metavar="NAME",
        help="full-table, ten-minutes, overload, stuck-event, soak, alternatives, redis-killed, "
        "redis-moved or ticket-rows instead",
    )
    psql = add("psql", _psql, "open psql on the database, with all that follows as its arguments")
    psql.add_argument("arguments", nargs=argparse.REMAINDER, help="of psql itself")
    psql.prefix_chars = "\0"  # so that -f and -v are psql's, not ours
    return parser


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
            print(f"{statement.name:24} {textwrap.shorten(statement.header.summary, 75)}")
        return 0
    statement = statements[parsed.name]
    given = dict(_key_and_value(one) for one in parsed.values)
    line = statement.psql_line(_shown_folder(settings.sql_dir), given)
    if not parsed.explain:
        print(line)
        return 0
    with _database(settings) as dsn, psycopg.connect(dsn) as connection:
        plan = connection.execute(statement.explained, {**statement.header.example, **given})
        for (row,) in plan:
            print(row)
        connection.rollback()
    return 0


def _audit(settings: Settings, parsed: argparse.Namespace) -> int:
    statements = load_statements(settings.sql_dir)
    with _database(settings) as dsn:
        done = shown_audit(audit(dsn, statements))
    print_audit(done, as_json=parsed.json)
    return 1 if done.failed else 0


def _bench(settings: Settings, parsed: argparse.Namespace) -> int:
    try:
        bench = importlib.import_module("tests.benchmarks.bench")
        trials = importlib.import_module("tests.benchmarks.trials")
    except ImportError as missing:
        raise CannotServe(
            f"holdfast bench runs in a clone of the repository, with its extra: {missing}"
        ) from None
    if parsed.trial:
        if parsed.trial not in trials.TRIALS:
            raise CannotServe(f"no trial {parsed.trial}; there are {', '.join(trials.TRIALS)}")
        trials.run(parsed.trial, parsed.plot)
        return 0
    outcomes = bench.run(parsed.rounds, parsed.seconds, settings.workers, bench.WORKLOADS)
    if parsed.json:
        print(bench.as_json(outcomes))
    else:
        bench.print_table(outcomes)
    if parsed.plot:
        bench.plot(parsed.plot, parsed.seconds, settings.workers)
    return 0


def _grant(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        for statement in grant(dsn, load_statements(settings.sql_dir), parsed.role):
            print(f"{statement};")
    return 0


def _forget(settings: Settings, parsed: argparse.Namespace) -> int:
    with _database(settings) as dsn:
        tickets, events = forget(dsn, load_statements(settings.sql_dir), parsed.fingerprint)
    print(f"{tickets} ticket(s) of {events} event(s) no longer tell whose they are")
    return 0


def _key_and_value(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise SettingsError(f"{text} is not understood: key=value is")
    return key, value


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
