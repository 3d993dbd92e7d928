"""The sweeper: expires holds in events for which no requests arrive.

Every batch first expires the holds that are due in its own events, so no request depends on the
sweeper. The sweeper keeps the counts and the ledger of all other events up to date. It submits its
changes to the write path, as handlers do, and never writes by itself.
"""

import asyncio
import logging

import psycopg

from service import limits
from service.database.connections import UNAVAILABLE
from service.database.queries import Queries
from service.write_path.changes import Expire, Outcome
from service.write_path.path import WritePath

log = logging.getLogger(__name__)


async def sweep(queries: Queries, write_path: WritePath) -> None:
    """Expire holds until canceled, with a pause whenever nothing has expired."""
    while True:
        has_expired = False
        try:
            due = await queries.list_due_events(limits.SWEEP_EVENTS)
            # Events that somebody has locked are left for the next time: waiting for one lock after
            # another would delay all the others.
            unlocked = await queries.find_unlocked_events(due) if due else set()
            # One at a time, so that few events are locked at once.
            for event_id in sorted(unlocked):
                has_expired |= isinstance(await write_path.submit(Expire(event_id)), Outcome)
        except (psycopg.OperationalError, *UNAVAILABLE) as error:
            log.warning("the sweeper failed and will try again: %s", type(error).__name__)
        except Exception:
            log.exception("the sweeper failed and will try again")
        if not has_expired:
            await asyncio.sleep(limits.SWEEP_INTERVAL_SECONDS)
