"""The write path: every change to an event's tickets goes through here, in batches.

Changes that arrive while a transaction is under way are queued, and go into the next one together
(group commit). There is no timer: an idle service carries out a single change at once, and a crowd
makes batches of hundreds, each of which locks an event's row once.

A lane is a queue with one transaction under way at a time (``lanes``). All events share one lane
(``shared_lane``). If a batch of the shared lane fails, its changes move to lanes of their own
events. If a batch of an event's own lane fails with a lock timeout, all of its changes are refused;
after another error it is split in halves, until only the changes that cannot be carried out fail.
So an event that is locked delays no other event, and a change that fails makes no other change
fail.
"""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from psycopg_pool import AsyncConnectionPool

from service import limits
from service.database.queries import Queries
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.batches import QueuedChange
from service.write_path.changes import Change, Offer, Update
from service.write_path.lanes import EventLanes, Lane
from service.write_path.outcomes import Outcome
from service.write_path.shared_lane import SharedLane
from service.write_path.transaction import Transactions


class WritePath:
    """Accepts changes from all handlers and puts each into a lane.

    Args:
        pool: connections for the transactions.
        transactions: carries out a batch.
        queries: finds the events and reservations of tickets.
        across_events: whether a batch may contain changes of several events (BATCH_ACROSS_EVENTS).
        queue_limit: how many changes may be pending at once (QUEUE_LIMIT).
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        transactions: Transactions,
        queries: Queries,
        *,
        across_events: bool,
        queue_limit: int,
    ) -> None:
        self._event_lanes = EventLanes(
            pool,
            transactions,
            queries,
            spawn=self._spawn,
            on_offerable=self._offer,
            for_all=not across_events,
        )
        self._shared_lane = SharedLane(
            pool,
            transactions,
            queries,
            self._event_lanes,
            spawn=self._spawn,
            on_offerable=self._offer,
        )
        self._queue_limit = queue_limit
        # Changes that are accepted and not yet resolved.
        self.pending_changes = 0
        # Requests that the queue had no room for, and whose BUSY is delayed.
        self.delayed_refusals = 0
        self._tasks: set[asyncio.Task[None]] = set()
        # The events for which an Offer is queued.
        self._offering: set[Uuid] = set()

    async def submit(self, change: Change) -> Outcome | Refusal:
        """Queue a change and return its outcome, or a refusal, within DEADLINE_SECONDS."""
        if self.pending_changes >= self._queue_limit:
            return await self._delay_refusal()
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.pending_changes += 1
        try:
            while True:
                queued = QueuedChange(
                    change,
                    loop.create_future(),
                    send_before=now + limits.QUEUE_SECONDS,
                    respond_before=now + limits.DEADLINE_SECONDS,
                )
                self._choose_lane(change).add(queued)
                # If the client disconnects, the change is carried out nevertheless.
                result = await queued.result
                if isinstance(result, Refusal) or result.code != "more_to_expire":
                    return result
                # The change needs more expired holds, and one transaction expires SWEEP_TICKETS.
                # Queue it again behind the buyers' changes, so that they need not wait until all
                # holds have expired.
                if isinstance(change, Update) and isinstance(result.detail, int):
                    change = change.continued(result.detail)
        finally:
            self.pending_changes -= 1

    async def _delay_refusal(self) -> Refusal:
        """Return BUSY after a delay with jitter; at once if too many refusals are delayed already.

        Clients that ignore Retry-After would otherwise retry at once, and use the CPU time that the
        queued changes need.
        """
        if self.delayed_refusals < limits.MAX_DELAYED_REFUSALS:
            self.delayed_refusals += 1
            try:
                await asyncio.sleep(limits.BUSY_DELAY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
            finally:
                self.delayed_refusals -= 1
        return BUSY

    def _offer(self, events: set[Uuid]) -> None:
        """Have an Offer submitted for each of the events that has none queued."""
        if events:
            # Soon, and not now: the Offers of the batch that has just ended are still in _offering.
            asyncio.get_running_loop().call_soon(self._submit_offers, events)

    def _submit_offers(self, events: set[Uuid]) -> None:
        for event_id in events - self._offering:
            self._offering.add(event_id)
            self._spawn(self._submit_offer(event_id))

    async def _submit_offer(self, event_id: Uuid) -> None:
        # If it is refused, the sweeper finds the event within a second or two.
        try:
            await self.submit(Offer(event_id))
        finally:
            self._offering.discard(event_id)

    async def close(self) -> None:
        """Wait until all lanes are done, for at most FINISH_WRITES_SECONDS."""
        deadline = asyncio.get_running_loop().time() + limits.FINISH_WRITES_SECONDS
        while self._tasks and (remaining := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=remaining)

    def _choose_lane(self, change: Change) -> Lane:
        """Return the lane of the change's event if it needs or has one, else the shared lane."""
        event = change.event_id
        if event and (change.has_own_lane or event in self._event_lanes):
            return self._event_lanes.get(event)
        return self._shared_lane

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # the event loop keeps only weak references
        task.add_done_callback(self._tasks.discard)
