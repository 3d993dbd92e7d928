"""The sweeper: brings the books level with the clock.

A hold whose time is up is free at once for whoever asks next; nobody waits for the sweeper. It
finds events where nobody asks, and hands them to the write path like any request: there is no
second writer.
"""

import asyncio
import logging

import psycopg

from service import limits
from service.database.connections import NO_ANSWER
from service.database.queries import Queries
from service.write_path.changes import Expire, Outcome
from service.write_path.path import WritePath

log = logging.getLogger(__name__)


async def sweep(queries: Queries, write_path: WritePath) -> None:
    """Sweep for ever, with a rest whenever nothing is due; cancel it to end it."""
    while True:
        freed = False
        try:
            # One after the other: the events of others are not to be locked all at once.
            for event_id in await queries.list_due_events(limits.SWEEP_EVENTS):
                freed |= isinstance(await write_path.submit(Expire(event_id)), Outcome)
        except (psycopg.OperationalError, *NO_ANSWER) as error:
            log.warning("the sweeper will look again: %s", type(error).__name__)
        except Exception:
            log.exception("the sweeper will look again")
        if not freed:
            await asyncio.sleep(limits.SWEEP_SECONDS)
