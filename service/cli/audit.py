"""The audit: every event's books, checked in one snapshot that no sale waits for.

The events are gone through a part at a time, so that whoever waits sees how far it is and
memory stays as it is however many tickets there are. All parts read in one transaction of
REPEATABLE READ, and so in one snapshot.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import psycopg
from psycopg import IsolationLevel
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service import limits
from service.database.connections import ADAPTERS, conninfo, stands_behind_pooler
from service.database.statements import Statements
from service.rows import Check, Uuid

FIRST = Uuid("00000000-0000-0000-0000-000000000000")


@dataclass(slots=True)
class Audit:
    """How far an audit is, and what it has found."""

    events: int = 0
    """How many were gone through."""
    remaining: int = 0
    failed: list[Check] = field(default_factory=list)
    """The rules that are broken, by event."""


def audit(dsn: str, statements: Statements) -> Iterator[Audit]:
    """Check all events, and yield the same audit after each part.

    Raises:
        psycopg.Error: what PostgreSQL or the connection had to say.
    """
    done, after = Audit(), FIRST
    with _snapshot(dsn, statements) as connection:
        while True:
            page = {"after": after, "page_size": limits.AUDIT_EVENTS}
            events = connection.execute(statements["list_event_ids"].query, page).fetchall()
            if not events:
                return
            part = {"event_ids": [id_ for id_, _ in events], "failed_only": True}
            found = connection.execute(statements["check_events"].query, part).fetchall()
            done.failed += [Check(*row) for row in found]
            done.events += len(events)
            after, done.remaining = events[-1][0], events[0][1] - len(events)
            yield done


@contextmanager
def _snapshot(dsn: str, statements: Statements) -> Iterator[psycopg.Connection]:
    """Give a connection on which everything is read as of one moment, however long it takes."""
    pooled = stands_behind_pooler(dsn, statements)
    with psycopg.connect(
        conninfo(dsn, statement_seconds=0, pooled=pooled), context=ADAPTERS, prepare_threshold=None
    ) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection


def shown_audit(parts: Iterable[Audit]) -> Audit:
    """Go through an audit, with a bar on a terminal's stderr, and return its end."""
    done = Audit()
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        bar = progress.add_task("events", total=None)
        for done in parts:
            progress.update(bar, completed=done.events, total=done.events + done.remaining)
    return done


def print_audit(done: Audit, console: Console) -> None:
    """Print what an audit has found, for people."""
    if done.failed:
        table = Table("event", "name", "rule", "expected", "found")
        for check in done.failed:
            table.add_row(
                check.event_id, check.name, check.rule, str(check.expected), str(check.found)
            )
        console.print(table)
    broken = len({check.event_id for check in done.failed})
    said = f"{broken} do not add up" if broken else "all add up"
    console.print(f"{done.events} event(s): {said}", highlight=False)


def audit_as_json(done: Audit) -> str:
    """Return what an audit has found, for programs."""
    failed = [
        {
            "eventId": check.event_id,
            "eventName": check.name,
            "name": check.rule,
            "expected": check.expected,
            "found": check.found,
        }
        for check in done.failed
    ]
    body = {"ok": not failed, "events": done.events, "failed": failed}
    return msgspec.json.encode(body).decode()
