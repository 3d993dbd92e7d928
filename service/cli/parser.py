"""The command line: the parser of ``holdfast`` and the help of its commands.

``commands.py`` runs the commands. It takes half a second to import, so it is imported only when
a command runs: neither --help nor completion waits for it.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from service.cli.help import EXIT_CODES, dedent, epilog

GLOBAL_OPTIONS = ("-h", "--help", "--version")
# Commands that have no options of their own, so that arguments may begin with a dash: psql passes
# its arguments on, and a fingerprint may begin with anything.
WITHOUT_OWN_OPTIONS = ("psql", "forget")
# The environment variables that a command reads, for its help.
DATABASE_VARIABLES = "DATABASE_URL, DATA_DIR (see holdfast serve --help)"
DATABASE_AND_SQL_VARIABLES = "DATABASE_URL, DATA_DIR, SQL_DIR (see holdfast serve --help)"

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its exit code."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell requests completions
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed = parse(parser, sys.argv[1:] if arguments is None else arguments)
    from service.cli import commands

    try:
        sys.exit(commands.run(parsed))
    except commands.UsageError as error:
        parsed.parser.error(str(error))


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with exit code 2."""

    command_names: tuple[str, ...] = ()

    def __init__(self, **options: Any) -> None:
        # Without abbreviations: one may become ambiguous when an option is added.
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print an error in one line and exit."""
        message = message.replace("the following arguments are required: ", "missing argument ")
        message = message.removeprefix("argument ")
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; without a command they are those of ``serve``."""
    command = next(iter(words), "serve")
    if command.startswith("-") and command not in GLOBAL_OPTIONS:
        if suggestion := _suggestion(command, GLOBAL_OPTIONS):
            parser.error(f"unknown option {command}{suggestion}")
        command = "serve"
        words = [command, *words]
    elif command not in (*parser.command_names, *GLOBAL_OPTIONS):
        parser.error(f"unknown command {command}{_suggestion(command, parser.command_names)}")
    parsed, rest = parser.parse_known_args(words or [command])
    if rest:
        parsed.parser.error(_unknown_argument(rest[0], parsed.parser))
    if command in WITHOUT_OWN_OPTIONS and list(words[1:]) == ["--help"]:
        parsed.parser.print_help()
        parser.exit()
    return parsed


def _unknown_argument(argument: str, parser: Parser) -> str:
    from service.settings import Settings

    if not argument.startswith("-"):
        return f"unexpected argument {argument}: remove it"
    option = argument.partition("=")[0]
    setting = option.removeprefix("--").replace("-", "_")
    if setting in Settings.__dataclass_fields__:
        return f"unknown option {option}: set the environment variable {setting.upper()}"
    options = [*re.findall(r"--\w+", parser.format_usage()), "--help"]
    return f"unknown option {option}{_suggestion(option, options)}"


def _suggestion(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f": did you mean {matches[0]}?" if matches else ""


def build_parser() -> Parser:
    """Return the parser of all commands."""
    description = """
        Sell a limited number of tickets to a crowd, and never oversell.

        Without a command, holdfast serves. Settings are environment variables: the
        help of each command lists those that it reads.
        """
    examples = """
        holdfast demo            sell tickets to a simulated crowd for 20 seconds
        holdfast serve           serve, with an embedded PostgreSQL
        holdfast audit           check the counts and the ledger of every event
        holdfast sql --help      show the help of a command

        Tab completes commands, options and statements in bash and zsh after
        eval "$(register-python-argcomplete holdfast)"
        """
    parser = Parser(prog="holdfast", description=dedent(description), epilog=epilog(examples))
    parser.add_argument("--version", action="version", version=version("holdfast"))
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    add = partial(_add, commands)

    command = add(
        "serve",
        "serve tickets over HTTP; the default command",
        """
        Without DATABASE_URL it starts an embedded PostgreSQL, migrates it, and stops
        it at the end; the data stays in DATA_DIR. A database that DATABASE_URL names
        must be migrated (holdfast migrate) and must not lose committed transactions:
        the service does not start while fsync, full_page_writes or synchronous_commit
        is off.

        It prints its addresses on stderr. At SIGTERM and Ctrl-C it first responds to
        the requests that it has accepted, and then stops.
        """,
        """
        holdfast serve
        holdfast serve --port 8080
        WORKERS=2 HOLD_SECONDS=600 holdfast
        DATABASE_URL=postgresql://holdfast_service@db/tickets holdfast serve
        """,
        """
        DATABASE_URL             an existing PostgreSQL (default: an embedded one)
        DATA_DIR                 the folder of the embedded PostgreSQL
        HOST                     the address to listen on (127.0.0.1)
        PORT                     the port to listen on; 0: any free one (8000)
        WORKERS                  the number of worker processes (1)
        HOLD_SECONDS             how long a reservation is held (900)
        MAX_HOLD_SECONDS         how long with all extensions (twice HOLD_SECONDS)
        MAX_TICKETS_PER_REQUEST  the largest quantity (10)
        MAX_WAITING_ENTRIES      how many may wait in line for one event (100000)
        ORGANIZER_TOKEN          required by the organizer's routes (default: none)
        CORS_ORIGINS             the origins of pages that may call the service
        ALLOWED_HOSTS            the names in the header Host that it serves
        LOG_FORMAT               text or json (text)
        LOG_LEVEL                debug, info, warning or error (info)
        BATCH_ACROSS_EVENTS      whether a batch may change several events (true)
        QUEUE_LIMIT              the most changes that may wait in a worker (5000)
        SQL_DIR                  the folder of the SQL statements
        """,
        {
            0: "stopped by SIGTERM or Ctrl-C",
            1: "it could not start; one line on stderr says why",
            2: EXIT_CODES[2],
        },
    )
    command.add_argument("--host", help="overrides HOST")
    port = whole_number(0, 65_535)
    command.add_argument("--port", type=port, metavar="N", help="overrides PORT")

    command = add(
        "demo",
        "sell out a few events to a simulated crowd",
        """
        Starts a PostgreSQL and a service in a temporary folder, with short holds, and
        sends a crowd's requests to it over HTTP. Some people pay, some cancel, some
        let their hold expire, some send their reservation twice, and some ask for
        more tickets than one person may have. At the end it runs the audit, and
        compares the responses that the crowd got with the ledger.

        It touches no other data and leaves nothing behind, also after Ctrl-C. It needs
        the programs of PostgreSQL, which the extra "embedded" installs. When stdout is
        not a terminal, it prints a line each second instead of a table.
        """,
        """
        holdfast demo
        holdfast demo --seconds 60
        SQL_DIR=changed-sql holdfast demo    # are changed statements still right?
        """,
        "SQL_DIR (see holdfast serve --help)",
        {
            0: "every ticket was sold once, and the audit found no errors",
            1: "it found an error, or it could not start; the reason is printed",
            2: EXIT_CODES[2],
            130: EXIT_CODES[130],
        },
    )
    seconds = whole_number(3, 600)
    command.add_argument(
        "--seconds", type=seconds, default=20, metavar="N", help="how long people arrive (20)"
    )
    command.add_argument(
        "--picture", type=output_file, metavar="FILE", help="write the output as SVG"
    )

    command = add(
        "migrate",
        "apply the migrations that the database lacks",
        """
        Applies the pending migrations, as yoyo apply does, and prints their names.
        Several may run at once, and one that is killed leaves no migration half
        applied. It must connect as the owner of the tables. Run holdfast grant after
        it: the service's role needs rights on what is new.

        While services are connected, it refuses a migration that changes what their
        version relies on: stop them first.
        """,
        """
        holdfast migrate
        DATABASE_URL=postgresql://owner@db/tickets holdfast migrate
        """,
    )
    command.add_argument(
        "--force", action="store_true", help="migrate although services are connected"
    )

    command = add(
        "psql",
        "open psql on the database",
        """
        All arguments go to psql, except a single --help, which shows this help;
        --help=options shows psql's. It runs the embedded psql if the database is the
        embedded one, or if no other psql is installed. If the embedded PostgreSQL does
        not run, it is started, and stopped when psql ends. Passwords do not appear in
        the process list.
        """,
        """
        holdfast psql
        holdfast psql -c '\\d events'
        holdfast psql -v event_ids='{}' -v failed_only=true -f sql/check_events.sql
        """,
        DATABASE_VARIABLES,
        {
            0: "done; psql's exit code is passed on",
            1: "psql had a fatal error, or holdfast failed before it ran psql",
            2: "psql could not connect, or lost the connection",
            3: "a script had an error, with -v ON_ERROR_STOP=1",
        },
    )
    command.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of psql")

    command = add(
        "dsn",
        "print the URL of the database",
        """
        The URL includes the password if DATABASE_URL has one. The embedded PostgreSQL
        has a URL only while it runs.
        """,
        """
        psql "$(holdfast dsn)"
        yoyo list --database "$(holdfast dsn --yoyo)"
        """,
        DATABASE_VARIABLES,
        {0: EXIT_CODES[0], 1: "the embedded PostgreSQL does not run", 2: EXIT_CODES[2]},
    )
    command.add_argument("--yoyo", action="store_true", help="in the form that yoyo reads")

    command = add(
        "sql",
        "list the SQL statements, or print the psql line or the plan of one",
        """
        Without NAME it lists the files of sql/, which are all statements that the
        service runs. With NAME it prints the line that runs the file in psql;
        parameters that are not given have the values of the example in its header.
        With --explain it connects to the database, runs the statement, rolls it back,
        and prints the plan.
        """,
        """
        holdfast sql
        holdfast sql create_event name='Opening night' total_tickets=100
        holdfast sql list_events --explain
        """,
    )
    name = command.add_argument("name", nargs="?", metavar="NAME", help="a statement")
    name.completer = _statement_names  # type: ignore[attr-defined]
    command.add_argument("values", nargs="*", metavar="key=value", help="values of its parameters")
    command.add_argument("--explain", action="store_true", help="print the plan")

    command = add(
        "audit",
        "check the counts and the ledger of every event",
        """
        Compares the tickets, the counts and the ledger of every event in one snapshot,
        without delaying a sale. It prints a table of the errors, if there are any, and
        a summary line. GET /events/{eventId}/audit does the same for one event.
        """,
        """
        holdfast audit
        holdfast audit --json | jq .failed
        """,
        exit_codes={
            **EXIT_CODES,
            0: "no errors were found",
            1: "errors were found and printed; or the audit failed, as stderr says",
        },
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")

    command = add(
        "grant",
        "grant a role the rights that the service needs, and no others",
        """
        The role must exist and must not own the tables. Other rights that it has on
        them are revoked; those that it has through another role are reported. It
        prints the SQL that it ran. Run it as the owner of the tables, and again after
        each migration.
        """,
        """
        holdfast psql -c 'create role holdfast_service login'
        holdfast grant holdfast_service
        """,
    )
    command.add_argument("role", metavar="ROLE", help="an existing role, not the owner")

    command = add(
        "forget",
        "replace a buyer's fingerprint everywhere by a random one",
        """
        The buyer's tickets remain, but can no longer be linked to the buyer. If it is
        interrupted, run it again: it replaces the rest. FINGERPRINT may begin with a
        dash. Only if it is --help, write -- before it.
        """,
        """
        holdfast forget -wXyZ_0123
        """,
    )
    command.add_argument("fingerprint", metavar="FINGERPRINT", help="as in the requests")

    parser.command_names = tuple(commands.choices)
    return parser


def _add(
    commands: Commands,
    name: str,
    summary: str,
    description: str,
    examples: str,
    environment: str = DATABASE_AND_SQL_VARIABLES,
    exit_codes: Mapping[int, str] = EXIT_CODES,
) -> Parser:
    """Add a command with its help."""
    has_own_options = name not in WITHOUT_OWN_OPTIONS
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{dedent(description)}",
        epilog=epilog(examples, environment, exit_codes),
        prefix_chars="-" if has_own_options else "\0",  # no argument can contain NUL
        add_help=has_own_options,
    )
    command.set_defaults(command=name, parser=command)
    return command


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return an argument type: a whole number between two bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(
                f"{text} is invalid: expected a whole number from {lowest} to {highest}"
            )
        return int(text)

    return parse


def output_file(text: str) -> Path:
    """Return the path of a file to write. Its folder must exist."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist: create it")
    return path


def _statement_names(**_: object) -> list[str]:
    """Return the names of all statements, for completion."""
    from service.settings import read_settings

    return sorted(file.stem for file in read_settings().sql_dir.glob("*.sql"))
