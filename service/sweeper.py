"""The sweeper: brings the books level with the clock.

A hold whose time is up is free at once for whoever asks next; nobody waits for the sweeper. It
finds events where nobody asks, and hands them to the write path like any request: there is no
second writer.
"""

import asyncio
import logging

import psycopg

from service import limits
from service.changes import Expire
from service.queries import Queries
from service.write_path import NO_CONNECTION, WritePath

log = logging.getLogger(__name__)


async def sweep(queries: Queries, write_path: WritePath) -> None:
    """Sweep for ever, a moment's rest after each time; cancel it to end it."""
    while True:
        try:
            due = await queries.list_due_events(limits.SWEEP_EVENTS)
            await asyncio.gather(*(write_path.submit(Expire(event_id)) for event_id in due))
        except (psycopg.Error, *NO_CONNECTION) as error:
            log.warning("the sweeper will look again: %s", type(error).__name__)
        await asyncio.sleep(limits.SWEEP_SECONDS)
