"""The sweeper: expires holds, and offers tickets, in events for which no requests arrive.

Every batch first expires the holds that are due in its own events, and is followed by offers to
those who wait in line for what it has released. So no request depends on the sweeper. The sweeper
keeps the counts and the ledger of all other events up to date, and offers what becomes available
without a request: at the opening of a sale, or by a change in psql. It submits its changes to the
write path, as handlers do, and never writes by itself.
"""

import asyncio
import logging

import psycopg

from service import limits, metrics
from service.database.connections import UNAVAILABLE
from service.database.queries import Queries
from service.write_path.changes import Expire, Offer
from service.write_path.outcomes import Outcome
from service.write_path.path import WritePath

log = logging.getLogger(__name__)


async def sweep(queries: Queries, write_path: WritePath) -> None:
    """Expire holds until canceled, with a pause whenever nothing has expired."""
    while True:
        has_expired = False
        try:
            waiting_tickets, lines = await queries.list_lines(limits.SWEEP_EVENTS)
            metrics.WAITING_TICKETS.set(waiting_tickets)
            due = await queries.list_due_events(limits.SWEEP_EVENTS)
            # Events that somebody has locked are left for the next time: waiting for one lock after
            # another would delay all the others.
            events = {*lines, *due}
            unlocked = await queries.find_unlocked_events(list(events)) if events else set()
            # One at a time, so that few events are locked at once; those with a line first.
            for event_id in lines:
                if event_id in unlocked:
                    await write_path.submit(Offer(event_id))
            for event_id in sorted(unlocked.intersection(due)):
                has_expired |= isinstance(await write_path.submit(Expire(event_id)), Outcome)
        except (psycopg.OperationalError, *UNAVAILABLE) as error:
            log.warning("the sweeper failed and will try again: %s", type(error).__name__)
        except Exception:
            log.exception("the sweeper failed and will try again")
        if not has_expired:
            await asyncio.sleep(limits.SWEEP_INTERVAL_SECONDS)
