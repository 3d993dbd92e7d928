"""The write path: every change to an event's tickets goes through here, in batches.

Changes that arrive while a transaction is under way are queued, and go into the next one together
(group commit). There is no timer: an idle service carries out a single change at once, and a crowd
makes batches of hundreds, each of which locks an event's row once.

A lane is a queue with one transaction under way at a time (``lanes``). All events share one lane.
If a batch of the shared lane fails, its changes move to lanes of their own events: after a lock
timeout only the changes of locked events, after another error all of them. If a batch of an event's
own lane fails, a lock timeout refuses all of its changes; after another error the batch is split in
halves until only the changes that cannot be carried out fail. So an event that is locked delays no
other event, and a change that fails makes no other change fail.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits
from service.database.connections import UNAVAILABLE
from service.database.queries import Queries
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.batches import QueuedChange, refuse_overdue
from service.write_path.changes import Change, Outcome
from service.write_path.lanes import SHARED, Lane
from service.write_path.transaction import Transactions

log = logging.getLogger(__name__)


class WritePath:
    """Accepts changes from all handlers and puts each into a lane.

    Args:
        pool: connections for the transactions.
        transactions: carries out a batch.
        queries: finds the event of a change that names only a ticket or a reservation.
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
        self._pool = pool
        self._transactions = transactions
        self._queries = queries
        self._across_events = across_events
        self._queue_limit = queue_limit
        # Lanes of single events use all connections but one, which is left for the shared lane.
        self._event_lane_slots = asyncio.Semaphore(limits.WRITE_CONNECTIONS - 1)
        # Changes that are accepted and not yet resolved.
        self.pending_changes = 0
        # Requests that the queue had no room for, and whose BUSY is delayed.
        self.delayed_refusals = 0
        self._lanes: dict[Uuid, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, change: Change) -> Outcome | Refusal:
        """Queue a change and return its outcome, or a refusal, within DEADLINE_SECONDS."""
        if self.pending_changes >= self._queue_limit:
            return await self._delay_refusal()
        loop = asyncio.get_running_loop()
        now = loop.time()
        queued = QueuedChange(
            change,
            loop.create_future(),
            send_before=now + limits.QUEUE_SECONDS,
            respond_before=now + limits.DEADLINE_SECONDS,
        )
        self.pending_changes += 1
        try:
            try:
                self._get_lane(await self._choose_lane(change)).add(queued)
            except (psycopg.OperationalError, *UNAVAILABLE):
                log.warning("the query for the event of a ticket or a reservation failed")
                return BUSY
            # If the client disconnects, the change is carried out nevertheless.
            return await queued.result
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

    async def close(self) -> None:
        """Wait until all lanes are done, for at most FINISH_WRITES_SECONDS."""
        deadline = asyncio.get_running_loop().time() + limits.FINISH_WRITES_SECONDS
        while self._tasks and (remaining := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=remaining)

    async def _choose_lane(self, change: Change) -> Uuid:
        """Return the key of the lane for a change."""
        event = change.event_id
        if change.has_own_lane and event:
            return event
        if self._across_events and self._lanes.keys() <= {SHARED}:
            return SHARED  # no event has a lane of its own
        if event is None:
            event = (await self._find_events([change])).get(change)
        if event and (event in self._lanes or not self._across_events):
            return event
        return SHARED  # also for a ticket or a reservation that does not exist

    def _get_lane(self, key: Uuid) -> Lane:
        """Return the lane with this key; create it if there is none."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(
                key,
                self._pool,
                self._transactions,
                slot=contextlib.nullcontext() if key == SHARED else self._event_lane_slots,
                spawn=self._spawn,
                move_to_event_lanes=self._move_to_event_lanes,
                find_reservations_of=self._find_reservations_of,
                on_idle=self._remove_lane,
            )
        return lane

    def _remove_lane(self, lane: Lane) -> None:
        """Remove an idle lane, so that its event uses the shared lane again."""
        if lane.key != SHARED and lane.is_idle and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # the event loop keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _move_to_event_lanes(
        self, batch: Sequence[QueuedChange], lock_timed_out: bool
    ) -> list[QueuedChange]:
        """Move the changes of a batch of the shared lane to the lanes of their events.

        Args:
            batch: the changes; their transaction was rolled back.
            lock_timed_out: whether that was for a lock timeout; then only the changes of locked
                events are moved.

        Returns:
            The changes that stay in the shared lane.
        """
        changes = [queued.change for queued in batch]
        unlocked: set[Uuid] = set()
        try:
            events = await self._find_events(changes)
            if lock_timed_out:
                unlocked = await self._queries.find_unlocked_events(list(set(events.values())))
        except (psycopg.OperationalError, *UNAVAILABLE):
            log.warning("the query for the events of a batch failed")
            events = {change: change.event_id for change in changes if change.event_id}
        if unlocked >= set(events.values()):
            # No event is locked now: the lock was released, or it was that of a ticket. Move all
            # changes, or the shared lane could time out for the same ticket again.
            unlocked = set()
        staying: list[QueuedChange] = []
        for queued in refuse_overdue(batch):
            event = events.get(queued.change)
            if event is None:
                queued.resolve(BUSY)  # there is no such ticket, or the query for its event failed
            elif event in unlocked:
                staying.append(queued)
            else:
                self._get_lane(event).add(queued)
        return staying

    async def _find_reservations_of(self, batch: Sequence[QueuedChange]) -> dict[Uuid, Uuid] | None:
        """Return the reservation of each ticket of a batch, which never changes.

        Returns:
            None if the query failed.
        """
        tickets = [queued.change.ticket_id for queued in batch if queued.change.ticket_id]
        try:
            rows = await self._queries.find_tickets(tickets, limits.EVENT_LOOKUP_SECONDS)
        except (psycopg.OperationalError, *UNAVAILABLE):
            log.warning("the query for the reservations of a batch failed")
            return None
        return {ticket.id: ticket.reservation_id for ticket in rows}

    async def _find_events(self, changes: Sequence[Change]) -> dict[Change, Uuid]:
        """Return the event of each change; leave out changes whose event is not found."""
        events_by_id: dict[Uuid | None, Uuid] = {}
        if tickets := [change.ticket_id for change in changes if change.ticket_id]:
            rows = await self._queries.find_tickets(tickets, limits.EVENT_LOOKUP_SECONDS)
            events_by_id = {ticket.id: ticket.event_id for ticket in rows}
        if reservations := [change.reservation_id for change in changes if change.reservation_id]:
            rows = await self._queries.find_reservations(reservations, limits.EVENT_LOOKUP_SECONDS)
            events_by_id |= {ticket.reservation_id: ticket.event_id for ticket in rows}
        events = {
            change: change.event_id
            or events_by_id.get(change.ticket_id)
            or events_by_id.get(change.reservation_id)
            for change in changes
        }
        return {change: event for change, event in events.items() if event}
