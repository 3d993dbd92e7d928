"""The audit: every event's books, checked in one snapshot that no sale waits for.

The events are gone through a part at a time, so that whoever waits sees how far it is and
memory stays as it is however many tickets there are. All parts read in one transaction of
REPEATABLE READ, and so in one snapshot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import IsolationLevel

from service import limits
from service.database import ADAPTERS, conninfo, stands_behind_pooler
from service.rows import Check, Uuid
from service.statements import Statements

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
