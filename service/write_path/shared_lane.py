"""The shared lane: carries out the changes of all events that have no lane of their own.

Its transactions contain changes of many events, and one event that is locked, or one change that
PostgreSQL rejects, must not hold up the others. So when a batch fails, its changes move to lanes of
their events: after a lock timeout only the changes of locked events, after another error all.

A change of a ticket or of a reservation does not name its event. While any event has a lane of its
own, each batch first queries the events of such changes, and a change whose event has a lane moves
there. So no change overtakes an earlier change of the same ticket that has moved.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits
from service.database.connections import UNAVAILABLE
from service.database.queries import Queries
from service.refusals import BUSY
from service.rows import Uuid
from service.write_path.batches import QueuedChange, drop_overdue
from service.write_path.lanes import EventLanes, Lane
from service.write_path.transaction import Transactions, is_lock_timeout

log = logging.getLogger(__name__)


class SharedLane(Lane):
    """The one lane that may carry out changes of several events in one transaction.

    Args:
        pool: connections for the transactions.
        transactions: carries out a batch.
        queries: finds the events of tickets and reservations.
        event_lanes: where changes move.
        spawn, on_offerable: those of each lane.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        transactions: Transactions,
        queries: Queries,
        event_lanes: EventLanes,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_offerable: Callable[[set[Uuid]], None],
    ) -> None:
        super().__init__(
            pool,
            transactions,
            queries,
            slot=nullcontext(),
            spawn=spawn,
            on_offerable=on_offerable,
            on_idle=lambda: None,
        )
        self._event_lanes = event_lanes

    def _lock_seconds(self, _: Sequence[QueuedChange]) -> float:
        """Return PostgreSQL's lock_timeout: short, because changes can move to events' lanes."""
        return limits.SHARED_LOCK_SECONDS

    async def _select(self, batch: list[QueuedChange]) -> list[QueuedChange]:
        """Move the changes whose event has a lane, and select among the others."""
        if self._event_lanes:
            staying: list[QueuedChange] = []
            for queued, event in await self._find_events(batch):
                if event and event in self._event_lanes:
                    self._event_lanes.get(event).add(queued)
                else:
                    staying.append(queued)  # also if there is no such ticket or reservation
            batch = staying
        return await super()._select(batch)

    async def _handle_rejection(self, batch: Sequence[QueuedChange], error: psycopg.Error) -> None:
        """Move changes to their events' lanes.

        After a lock timeout move those of the locked events, after another error all of them.
        """
        changes = await self._find_events(batch)
        unlocked: set[Uuid] = set()
        if is_lock_timeout(error):
            events = {event for _, event in changes if event}
            unlocked = await self._find_unlocked(events)
            if unlocked == events:
                # The lock was released, or it was that of a ticket. Move all changes, or this lane
                # could time out for the same ticket again.
                unlocked = set()
        staying: list[QueuedChange] = []
        for queued, event in changes:
            if event is None:
                # There is no such ticket or reservation, and so no lane to move to. The client's
                # retry, in another batch, is refused as not found.
                queued.resolve(BUSY)
            elif event in unlocked:
                staying.append(queued)
            else:
                self._event_lanes.get(event).add(queued)
        self._put_back(drop_overdue(staying))

    async def _find_events(
        self, batch: Sequence[QueuedChange]
    ) -> list[tuple[QueuedChange, Uuid | None]]:
        """Return each change with its event, or with None if its ticket or reservation is unknown.

        If the query fails, the changes that do not name their event are refused and left out.
        """
        tickets = [queued.change.ticket_id for queued in batch if queued.change.ticket_id]
        reservations = [
            queued.change.reservation_id for queued in batch if queued.change.reservation_id
        ]
        seconds = limits.EVENT_LOOKUP_SECONDS
        events: dict[Uuid | None, Uuid] = {}
        try:
            if tickets:
                rows = await self._queries.find_tickets(tickets, seconds)
                events |= {ticket.id: ticket.event_id for ticket in rows}
            if reservations:
                rows = await self._queries.find_reservations(reservations, seconds)
                events |= {ticket.reservation_id: ticket.event_id for ticket in rows}
        except (psycopg.Error, *UNAVAILABLE):
            log.warning("the query for the events of a batch failed")
            for queued in batch:
                if not queued.change.event_id:
                    queued.resolve(BUSY)
            batch = [queued for queued in batch if queued.change.event_id]
        return [
            (
                queued,
                queued.change.event_id
                or events.get(queued.change.ticket_id)
                or events.get(queued.change.reservation_id),
            )
            for queued in drop_overdue(batch)
        ]

    async def _find_unlocked(self, events: set[Uuid]) -> set[Uuid]:
        """Return the events that are not locked at the moment; none if the query failed."""
        try:
            return await self._queries.find_unlocked_events(list(events))
        except (psycopg.Error, *UNAVAILABLE):
            log.warning("the query for the locked events of a batch failed")
            return set()
