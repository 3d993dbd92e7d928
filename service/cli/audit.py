"""The audit: checks the counts and the ledger of every event in one snapshot.

The events are checked in batches: this bounds memory, and allows a progress bar. All batches run
in one REPEATABLE READ transaction, so that they read the same snapshot. The audit takes no locks
and delays no sale.
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
from service.database.connections import ADAPTERS, conninfo, is_pooler_address
from service.database.statements import Statements
from service.rows import Check, Uuid

MIN_UUID = Uuid("00000000-0000-0000-0000-000000000000")


@dataclass(slots=True)
class Audit:
    """The progress and the result of an audit."""

    events: int = 0  # checked so far
    remaining: int = 0  # events still to check
    failed: list[Check] = field(default_factory=list)  # ordered by event


def audit(dsn: str, statements: Statements) -> Iterator[Audit]:
    """Check all events in batches; after each, update one ``Audit`` and yield it again.

    Raises:
        psycopg.Error: when the connection or a statement fails.
    """
    result, after = Audit(), MIN_UUID
    with _snapshot(dsn, statements) as connection:
        while True:
            page = {"after": after, "page_size": limits.AUDIT_BATCH_EVENTS}
            events = connection.execute(statements["list_event_ids"].query, page).fetchall()
            if not events:
                return
            batch = {"event_ids": [event_id for event_id, _ in events], "failed_only": True}
            checks = connection.execute(statements["check_events"].query, batch).fetchall()
            result.failed += [Check(*row) for row in checks]
            result.events += len(events)
            # A row is an id and the number of events that were left, those of this batch included.
            after, result.remaining = events[-1][0], events[0][1] - len(events)
            yield result


@contextmanager
def _snapshot(dsn: str, statements: Statements) -> Iterator[psycopg.Connection]:
    """Give a read-only connection that reads one snapshot, without a statement timeout."""
    behind_pooler = is_pooler_address(dsn, statements)
    with psycopg.connect(
        conninfo(dsn, statement_seconds=0, behind_pooler=behind_pooler),
        context=ADAPTERS,
        prepare_threshold=None,
    ) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection


def finish_audit(updates: Iterable[Audit]) -> Audit:
    """Run an audit to its end and return its last update.

    It shows a progress bar if stderr is a terminal.
    """
    result = Audit()
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        bar = progress.add_task("events", total=None)
        for result in updates:
            progress.update(bar, completed=result.events, total=result.events + result.remaining)
    return result


def print_audit(result: Audit, console: Console) -> None:
    """Print a table of the failed checks, and a summary line."""
    if result.failed:
        table = Table("event", "name", "rule", "expected", "found")
        for check in result.failed:
            table.add_row(
                check.event_id, check.name, check.rule, str(check.expected), str(check.found)
            )
        console.print(table)
    failed_events = len({check.event_id for check in result.failed})
    summary = f"{failed_events} do not add up" if failed_events else "all add up"
    console.print(f"{result.events} event(s): {summary}", highlight=False)


def audit_as_json(result: Audit) -> str:
    """Return the result of an audit as JSON."""
    failed = [
        {
            "eventId": check.event_id,
            "eventName": check.name,
            "name": check.rule,
            "expected": check.expected,
            "found": check.found,
        }
        for check in result.failed
    ]
    body = {"ok": not failed, "events": result.events, "failed": failed}
    return msgspec.json.encode(body).decode()
