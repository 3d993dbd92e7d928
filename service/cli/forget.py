"""Forgetting a buyer: replaces the buyer's fingerprint everywhere by a random one.

Each event has its own transaction, which locks the event like every change of its tickets. An
interrupted run leaves the finished events changed, and another run changes the rest.
"""

import secrets

import psycopg

from service import limits
from service.database.connections import conninfo, is_pooler_address
from service.database.statements import Statements


def forget(dsn: str, statements: Statements, user_fingerprint: str) -> tuple[int, int]:
    """Replace a fingerprint in all events by the same random one.

    Returns:
        The number of tickets and of events that were changed.

    Raises:
        psycopg.Error: when a statement fails; with SQLSTATE 55P03 when an event's lock is not
            available within ``FORGET_LOCK_SECONDS``.
    """
    timeouts = {
        "lock_timeout": f"{limits.FORGET_LOCK_SECONDS} s",
        "statement_timeout": f"{limits.FORGET_LOCK_SECONDS} s",
    }
    buyer = {"user_fingerprint": user_fingerprint}
    replacement = secrets.token_urlsafe(limits.FINGERPRINT_BYTES)
    tickets = 0
    behind_pooler = is_pooler_address(dsn, statements)
    with psycopg.connect(
        conninfo(dsn, behind_pooler=behind_pooler), autocommit=True, prepare_threshold=None
    ) as connection:
        events = connection.execute(statements["list_user_events"].query, buyer).fetchall()
        for (event_id,) in events:
            event = {"event_ids": [event_id], "ticket_ids": [], "reservation_ids": []}
            change = {**buyer, "event_id": event_id, "replacement": replacement}
            with connection.transaction():
                connection.execute(statements["limit_waits"].query, timeouts)
                connection.execute(statements["lock_events"].query, event)
                row = connection.execute(statements["forget_user"].query, change).fetchone()
            tickets += row[0] if row else 0
    return tickets, len(events)
