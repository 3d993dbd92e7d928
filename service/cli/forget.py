"""Forgetting: somebody's fingerprint is replaced by one that nobody has.

One transaction for each event, under the event's lock like every change of its tickets. What
was done before it was cut off stays done, and another run does the rest.
"""

import secrets

import psycopg

from service import limits
from service.database.connections import conninfo, stands_behind_pooler
from service.database.statements import Statements


def forget(dsn: str, statements: Statements, user_fingerprint: str) -> tuple[int, int]:
    """Replace a fingerprint everywhere by a random one, the same everywhere.

    Returns:
        How many tickets, of how many events.

    Raises:
        psycopg.Error: among others 55P03, when an event's lock is not to be had.
    """
    waits = {
        "lock_timeout": f"{limits.FORGET_SECONDS} s",
        "statement_timeout": f"{limits.FORGET_SECONDS} s",
    }
    who = {"user_fingerprint": user_fingerprint}
    replacement = secrets.token_urlsafe(limits.FINGERPRINT_BYTES)
    forgotten = 0
    pooled = stands_behind_pooler(dsn, statements)
    with psycopg.connect(
        conninfo(dsn, pooled=pooled), autocommit=True, prepare_threshold=None
    ) as connection:
        events = connection.execute(statements["list_user_events"].query, who).fetchall()
        for (event_id,) in events:
            locked = {"event_ids": [event_id], "ticket_ids": [], "reservation_ids": []}
            where = {**who, "event_id": event_id, "replacement": replacement}
            with connection.transaction():
                connection.execute(statements["limit_waits"].query, waits)
                connection.execute(statements["lock_events"].query, locked)
                row = connection.execute(statements["forget_user"].query, where).fetchone()
            forgotten += row[0] if row else 0
    return forgotten, len(events)
