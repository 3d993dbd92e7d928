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
from operator import attrgetter
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits, metrics
from service.database.connections import NO_ANSWER, NO_CONNECTION, has_broken, told
from service.database.pipeline import NotSent
from service.database.queries import Queries
from service.logs import REQUEST_ID
from service.refusals import BUSY, INTERNAL_SERVER_ERROR, OUTCOME_UNKNOWN, Refusal
from service.rows import Uuid
from service.write_path.changes import Change, Outcome, Update
from service.write_path.lanes import (
    Deadline,
    Lane,
    Waiting,
    in_time,
    take_batch,
    tell_all,
)
from service.write_path.transaction import Transactions

log = logging.getLogger(__name__)

SHARED = Uuid("")
"""The key of the lane that all events share which have none of their own."""

_TRY_AGAIN = ("40001", "40P01")
"""What PostgreSQL itself asks to be tried again as it was: serialization, deadlock."""

_PASSES = (*_TRY_AGAIN, "55P03", "57014", "25006", "53")
"""What undid a transaction and may be gone a moment later: also a lock or a statement that took
too long, a server that is read-only just now, and whatever it lacks (class 53)."""


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
        """Hand in a change and return what became of it, within the deadline."""
        if self.accepted >= self._queue_limit:
            return await self._refuse_slowly()
        loop = asyncio.get_running_loop()
        now = loop.time()
        one = Waiting(
            change,
            loop.create_future(),
            now + limits.QUEUE_SECONDS,
            now + limits.DEADLINE_SECONDS,
        )
        self.accepted += 1
        try:
            try:
                self._line_up(await self._key(change), one)
            except (psycopg.OperationalError, *NO_ANSWER):
                log.warning("the event of a ticket or a reservation could not be found")
                return BUSY
            # A client that goes away leaves its change to come to its end.
            return await one.answer
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

    async def _key(self, change: Change) -> Uuid:
        """Return the lane that a change belongs into."""
        event = change.event
        if change.goes_apart and event:
            return event
        if self._across_events and self._lanes.keys() <= {SHARED}:
            return SHARED
        if event is None:
            event = (await self._find_events_of([change])).get(change)
        return event if event and (event in self._lanes or not self._across_events) else SHARED

    def _line_up(self, key: Uuid, one: Waiting) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        lane.waiting.append(one)
        if lane.timer is None:
            self._refuse_late(lane)
        if lane.runner is None:
            self._run(lane)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    def _refuse_late(self, lane: Lane) -> None:
        """Refuse who could not be sent in time, and look again when the next one's time is up."""
        loop = asyncio.get_running_loop()
        while lane.waiting and lane.waiting[0].send_before <= loop.time():
            lane.waiting.popleft().tell(BUSY)
        lane.timer = None
        if lane.waiting:
            lane.timer = loop.call_at(lane.waiting[0].send_before, self._refuse_late, lane)

    def _run(self, lane: Lane) -> None:
        """Give a lane a runner: its first, or one in the place of one that stands still."""
        lane.runner = object()
        self._spawn(self._drain(lane, lane.runner))

    async def _drain(self, lane: Lane, runner: object) -> None:
        # Events that are apart never take all connections: the shared lane has one.
        turn = self._apart if lane.key != SHARED else contextlib.nullcontext()
        loop = asyncio.get_running_loop()
        REQUEST_ID.set("")  # what goes wrong with a batch is no one request's
        while lane.waiting and lane.runner is runner:
            async with turn:
                if batch := take_batch(lane.waiting):
                    # A server that stands still keeps its connection and its runner. Not a
                    # task for each batch: the next one is sent before this one is answered.
                    standstill = loop.call_later(limits.DEADLINE_SECONDS, self._run, lane)
                    await self._see_to(lane, batch)
                    standstill.cancel()
        if lane.runner is runner:
            lane.runner = None
            if lane.is_stuck:
                loop.call_later(limits.STUCK_SECONDS, self._drop, lane)
            else:
                self._drop(lane)

    def _drop(self, lane: Lane) -> None:
        """Let an event that is apart and that nobody asks for go back to the others."""
        if lane.key != SHARED and lane.runner is None and not lane.waiting:
            self._lanes.pop(lane.key, None)

    async def _see_to(self, lane: Lane, batch: Sequence[Waiting]) -> None:
        """Carry a batch out, and leave nobody without an answer, whatever goes wrong."""
        try:
            await self._carry_out(lane, batch)
        except Exception:
            log.exception("a batch of %d has failed", len(batch))
            tell_all(batch, INTERNAL_SERVER_ERROR)

    async def _carry_out(self, lane: Lane, batch: Sequence[Waiting], tries: int = 1) -> None:
        """Run one transaction and tell everybody; when it fails, find out who it is that fails."""
        # A sent pipeline is not called back: it may just be committing. It is left to end,
        # and whoever waited for it until the deadline is told that nobody knows.
        giving_up = Deadline(batch, attrgetter("answer_before"), OUTCOME_UNKNOWN)
        lock_seconds = limits.SHARED_LOCK_SECONDS if lane.key == SHARED else limits.LOCK_SECONDS
        try:
            async with self._pool.connection() as connection:
                changes = [one.change for one in batch]
                with metrics.BATCH_SECONDS.time():
                    outcomes = await self._transactions.run(connection, changes, lock_seconds)
        except (*NO_CONNECTION, NotSent):
            tell_all(batch, BUSY)
        except psycopg.Error as error:
            giving_up.cancel()
            await self._settle(lane, batch, error, tries)
        else:
            lane.is_stuck = False
            metrics.BATCH_REQUESTS.observe(len(batch))
            for one, outcome in zip(batch, outcomes, strict=True):
                one.tell(outcome)
        finally:
            giving_up.cancel()

    async def _settle(
        self, lane: Lane, batch: Sequence[Waiting], error: psycopg.Error, tries: int
    ) -> None:
        """Do what is left to do about a batch that was not committed, or perhaps was."""
        reason = "lost" if has_broken(error) else (error.sqlstate or "")[:2]
        metrics.BATCHES_FAILED.labels(reason).inc()
        if has_broken(error):
            log.warning("nobody knows what became of a batch of %d: %s", len(batch), told(error))
            tell_all(batch, OUTCOME_UNKNOWN)
        elif _is_name_taken(batch, error):
            tell_all(batch, Outcome("event_exists"))
        elif error.sqlstate in _TRY_AGAIN and tries < limits.TRIES:
            if again := in_time(batch):
                await self._carry_out(lane, again, tries + 1)
        elif lane.key == SHARED:
            await self._deal_out(lane, batch, isinstance(error, psycopg.errors.LockNotAvailable))
        elif isinstance(error, psycopg.errors.LockNotAvailable):
            # They all want the one lock, or else a ticket that somebody holds in psql.
            lane.is_stuck = True
            tell_all(batch, BUSY)
        elif len(batch) > 1:
            await self._carry_out_by_halves(lane, batch)
        elif (error.sqlstate or "").startswith(_PASSES):
            log.info("one change is told to come again: %s", told(error))
            tell_all(batch, BUSY)
        else:
            log.error("a change has failed: %s", told(error))
            tell_all(batch, INTERNAL_SERVER_ERROR)

    async def _carry_out_by_halves(self, lane: Lane, batch: Sequence[Waiting]) -> None:
        half = len(batch) // 2
        # Nothing of the second half is sent yet: should the first take long, it is refused.
        refusing = Deadline(batch[half:], attrgetter("send_before"), BUSY)
        if first := in_time(batch[:half]):
            await self._carry_out(lane, first)
        refusing.cancel()
        if second := in_time(batch[half:]):
            await self._carry_out(lane, second)

    async def _deal_out(self, lane: Lane, batch: Sequence[Waiting], for_a_lock: bool) -> None:
        """Give each event of a shared batch its own lane, or only those that are locked."""
        changes = [one.change for one in batch]
        free: set[Uuid] = set()
        try:
            events = await self._find_events_of(changes)
            if for_a_lock:
                free = await self._queries.find_free_events(list(set(events.values())))
        except (psycopg.OperationalError, *NO_ANSWER):
            log.warning("the events of a batch could not be found")
            events = {change: change.event for change in changes if change.event}
        if free >= set(events.values()):
            free = set()  # nobody is locked, and yet it failed: each by itself, then
        again: list[Waiting] = []
        for one in in_time(batch):
            event = events.get(one.change)
            if event is None:
                one.tell(BUSY)  # its transaction was undone, and its event cannot be found now
            elif event in free:
                again.append(one)
            else:
                self._line_up(event, one)
        lane.waiting.extendleft(reversed(again))
        if lane.timer is None:
            self._refuse_late(lane)

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


def _is_name_taken(batch: Sequence[Waiting], error: psycopg.Error) -> bool:
    """Whether an update, which stands alone, has met another event of its name and date."""
    return (
        isinstance(batch[0].change, Update)
        and isinstance(error, psycopg.errors.UniqueViolation)
        # On Citus the name of a table ends in the number of its shard.
        and (error.diag.table_name or "").startswith("events")
    )
