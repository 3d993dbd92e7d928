"""The write path: the one way by which an event's tickets change, with group commit.

Changes that arrive while a transaction is under way are gathered and go into the next one
together. There is no timer: an idle service runs a batch of one at once, a crowd makes batches
of hundreds, and an event's row is locked once for all of them.

A lane is a line of waiting changes with at most one transaction under way (``lanes``). All
events share one lane. When a batch of it fails, its changes are dealt out to lanes of one event
each: for a lock only those whose event is locked, for any other reason all of them. In those lanes
a batch that fails is halved until what fails, fails alone. So a stuck event holds up no other, and
a change that cannot be carried out takes no neighbour with it.
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
from service.database.connections import NO_ANSWER
from service.database.queries import Queries
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.batches import QueuedChange, refuse_late
from service.write_path.changes import Change, Outcome
from service.write_path.lanes import SHARED, Lane
from service.write_path.transaction import Transactions

log = logging.getLogger(__name__)


class WritePath:
    """Takes the changes of all handlers and carries them out in batches."""

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
        self._apart = asyncio.Semaphore(limits.WRITE_CONNECTIONS - 1)
        self.accepted = 0
        """How many changes wait for their answer just now."""
        self.turned_away = 0
        """How many wait to hear that there was no room for them."""
        self._lanes: dict[Uuid, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, change: Change) -> Outcome | Refusal:
        """Queue a change and return its outcome, or a refusal, within the deadline."""
        if self.accepted >= self._queue_limit:
            return await self._refuse_slowly()
        loop = asyncio.get_running_loop()
        now = loop.time()
        queued = QueuedChange(
            change,
            loop.create_future(),
            now + limits.QUEUE_SECONDS,
            now + limits.DEADLINE_SECONDS,
        )
        self.accepted += 1
        try:
            try:
                self._lane(await self._find_key(change)).add(queued)
            except (psycopg.OperationalError, *NO_ANSWER):
                log.warning("the event of a ticket or a reservation could not be found")
                return BUSY
            # A client that goes away leaves its change to come to its end.
            return await queued.result
        finally:
            self.accepted -= 1

    async def _refuse_slowly(self) -> Refusal:
        """Refuse whom there is no room for, and not at once.

        Whoever does not heed Retry-After would be back at once, and a crowd of them would take
        the processor from those who are in the line.
        """
        if self.turned_away < limits.TURNED_AWAY:
            self.turned_away += 1
            try:
                await asyncio.sleep(limits.TURN_AWAY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
            finally:
                self.turned_away -= 1
        return BUSY

    async def close(self) -> None:
        """Let what was accepted come to its end."""
        deadline = asyncio.get_running_loop().time() + limits.SETTLE_SECONDS
        while self._tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)

    async def _find_key(self, change: Change) -> Uuid:
        """Return the key of the lane for a change."""
        event = change.event
        if change.goes_apart and event:
            return event
        if self._across_events and self._lanes.keys() <= {SHARED}:
            return SHARED
        if event is None:
            event = (await self._find_events_of([change])).get(change)
        return event if event and (event in self._lanes or not self._across_events) else SHARED

    def _lane(self, key: Uuid) -> Lane:
        """Return the lane with this key; create it if there is none."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(
                key,
                self._pool,
                self._transactions,
                # Events that are apart never take all connections: the shared lane has one.
                turn=contextlib.nullcontext() if key == SHARED else self._apart,
                spawn=self._spawn,
                deal_out=self._deal_out,
                on_idle=self._remove_lane,
            )
        return lane

    def _remove_lane(self, lane: Lane) -> None:
        """Let an event that is apart and has no changes go back to the shared lane."""
        if lane.key != SHARED and lane.is_idle and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _deal_out(self, batch: Sequence[QueuedChange], is_locked: bool) -> list[QueuedChange]:
        """Give each event of a shared batch its own lane, or only those that are locked.

        Returns:
            The changes that stay in the shared lane.
        """
        changes = [queued.change for queued in batch]
        unlocked: set[Uuid] = set()
        try:
            events = await self._find_events_of(changes)
            if is_locked:
                unlocked = await self._queries.find_unlocked_events(list(set(events.values())))
        except (psycopg.OperationalError, *NO_ANSWER):
            log.warning("the events of a batch could not be found")
            events = {change: change.event for change in changes if change.event}
        if unlocked >= set(events.values()):
            unlocked = set()  # none is locked, and yet it failed: each by itself, then
        staying: list[QueuedChange] = []
        for queued in refuse_late(batch):
            event = events.get(queued.change)
            if event is None:
                # Its transaction was undone, and its event cannot be found now.
                queued.resolve(BUSY)
            elif event in unlocked:
                staying.append(queued)
            else:
                self._lane(event).add(queued)
        return staying

    async def _find_events_of(self, changes: Sequence[Change]) -> dict[Change, Uuid]:
        """Return the event of each change; of one that does not know it, if there is any."""
        found: dict[Uuid | None, Uuid] = {}
        if tickets := [change.ticket for change in changes if change.ticket]:
            rows = await self._queries.find_tickets(tickets, limits.LOOK_UP_SECONDS)
            found = {ticket.id: ticket.event_id for ticket in rows}
        if reservations := [change.reservation for change in changes if change.reservation]:
            rows = await self._queries.find_reservations(reservations, limits.LOOK_UP_SECONDS)
            found |= {ticket.reservation_id: ticket.event_id for ticket in rows}
        events = {
            change: change.event or found.get(change.ticket) or found.get(change.reservation)
            for change in changes
        }
        return {change: event for change, event in events.items() if event}
