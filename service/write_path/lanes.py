"""Lanes: each is a queue of changes and the task that carries them out in batches.

A lane has one transaction under way at a time, with one exception: if PostgreSQL has not responded
within DEADLINE_SECONDS, a second task carries out the next batches while the first still waits.

All events share one lane (``shared_lane``), and an event that is locked or whose changes fail has
one of its own.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from operator import attrgetter
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits, metrics
from service.database.connections import (
    NOT_CONNECTED,
    UNAVAILABLE,
    leaves_outcome_unknown,
    loggable,
)
from service.database.pipeline import NotSent
from service.database.queries import Queries
from service.logs import REQUEST_ID
from service.refusals import BUSY, INTERNAL_SERVER_ERROR, OUTCOME_UNKNOWN
from service.rows import Uuid
from service.write_path.batches import (
    QueuedChange,
    RefusalTimer,
    drop_overdue,
    keep_order,
    needs_reservations,
    resolve_all,
    take_batch,
)
from service.write_path.changes import Update
from service.write_path.outcomes import Outcome
from service.write_path.transaction import Transactions, is_lock_timeout

log = logging.getLogger(__name__)

# SQLSTATEs after which a retry is recommended: serialization failure and deadlock. On Citus also
# CIINF, "intermediate result not found": the schema moved to another worker during a statement.
_RETRIED = ("40001", "40P01", "CIINF")

# The SQLSTATE with which match_event ends the transaction of an update.
_STATE_DIFFERS = "HF412"

# SQLSTATEs of errors that may be temporary, so the client should try again: also lock_timeout,
# statement_timeout, a read-only server, and insufficient resources (class 53).
_TRANSIENT = (*_RETRIED, "55P03", "57014", "25006", "53")


class Lane:
    """A queue of changes that are carried out in batches, in the order of their arrival.

    Args:
        pool: connections for the transactions.
        transactions: carries out a batch.
        queries: finds the reservations of tickets.
        slot: entered as a context for each batch; limits how many lanes have a transaction at once.
        spawn: starts a task and keeps a reference to it.
        on_offerable: called after each transaction, with the events whose waiting list may get an
            offer now.
        on_idle: called when the queue has become empty. If the last batch had a lock timeout, the
            call comes STUCK_LANE_SECONDS later; the lane may not be idle any more by then.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        transactions: Transactions,
        queries: Queries,
        *,
        slot: AbstractAsyncContextManager[None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_offerable: Callable[[set[Uuid]], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._transactions = transactions
        self._queries = queries
        self._slot = slot
        self._spawn = spawn
        self._on_offerable = on_offerable
        self._on_idle = on_idle
        self._queue: deque[QueuedChange] = deque()
        # Identifies the task that carries out the batches; None if there is none.
        self._runner: object | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Whether the last batch had a lock timeout; then the event keeps its lane for a while.
        self._is_stuck = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and nothing is under way."""
        return self._runner is None and not self._queue

    def add(self, queued: QueuedChange) -> None:
        """Queue a change, and start the timer and the runner if they are not running."""
        self._queue.append(queued)
        if self._timer is None:
            self._refuse_overdue()
        if self._runner is None:
            self._start_runner()

    def _refuse_overdue(self) -> None:
        """Refuse the changes at the head of the queue that are too late to be sent.

        Then set the timer for the next one.
        """
        loop = asyncio.get_running_loop()
        while self._queue and self._queue[0].send_before <= loop.time():
            self._queue.popleft().resolve(BUSY)
        self._timer = None
        if self._queue:
            self._timer = loop.call_at(self._queue[0].send_before, self._refuse_overdue)

    def _start_runner(self) -> None:
        """Start a new runner; an earlier one that still runs ends after its current batch."""
        self._runner = object()
        self._spawn(self._run(self._runner))

    async def _run(self, runner: object) -> None:
        """Carry out batch after batch until nothing is queued or another runner has taken over."""
        # One task runs all batches, so that the next batch is sent before the handlers of this
        # batch's changes continue.
        loop = asyncio.get_running_loop()
        REQUEST_ID.set("")  # log lines of a batch belong to no single request
        while self._queue and self._runner is runner:
            async with self._slot:
                if batch := take_batch(self._queue):
                    # If PostgreSQL does not respond, this runner keeps waiting and another one
                    # takes over.
                    takeover = loop.call_later(limits.DEADLINE_SECONDS, self._start_runner)
                    try:
                        if batch := await self._select(batch):
                            await self._carry_out(batch)
                    except Exception:
                        log.exception("a batch of %d changes has failed", len(batch))
                        resolve_all(batch, INTERNAL_SERVER_ERROR)
                    takeover.cancel()
        if self._runner is runner:
            self._runner = None
            if self._is_stuck:
                loop.call_later(limits.STUCK_LANE_SECONDS, self._on_idle)
            else:
                self._on_idle()

    async def _select(self, batch: list[QueuedChange]) -> list[QueuedChange]:
        """Return the changes of a batch that may share the next transaction.

        Those that must wait for another one go back to the head of the queue.
        """
        reservations: Mapping[Uuid, Uuid] | None = {}
        if needs_reservations(batch):
            reservations = await self._find_reservations_of(batch)
            batch = drop_overdue(batch)
        if reservations is None:
            batch, aside = batch[:1], batch[1:]  # one change alone is always in order
        else:
            batch, aside = keep_order(batch, reservations)
        if aside:
            self._put_back(aside)
        return batch

    async def _find_reservations_of(self, batch: Sequence[QueuedChange]) -> dict[Uuid, Uuid] | None:
        """Return the reservation of each ticket of a batch; None if the query failed."""
        tickets = [queued.change.ticket_id for queued in batch if queued.change.ticket_id]
        try:
            rows = await self._queries.find_tickets(tickets, limits.EVENT_LOOKUP_SECONDS)
        except (psycopg.Error, *UNAVAILABLE):
            log.warning("the query for the reservations of a batch failed")
            return None
        return {ticket.id: ticket.reservation_id for ticket in rows}

    def _put_back(self, changes: Sequence[QueuedChange]) -> None:
        """Return changes to the head of the queue, in their order."""
        self._queue.extendleft(reversed(changes))
        if self._timer is None:
            self._refuse_overdue()

    def _lock_seconds(self, batch: Sequence[QueuedChange]) -> float:
        """Return PostgreSQL's lock_timeout for a batch.

        It is LOCK_SECONDS, or after a lock timeout less: the oldest change of the batch has waited
        in the queue meanwhile, and that time counts. So no client waits for two whole lock timeouts
        before it gets BUSY.
        """
        if not self._is_stuck:
            return limits.LOCK_SECONDS
        queued_at = min(queued.send_before for queued in batch) - limits.QUEUE_SECONDS
        waited = asyncio.get_running_loop().time() - queued_at
        return max(limits.SHARED_LOCK_SECONDS, limits.LOCK_SECONDS - waited)

    async def _carry_out(self, batch: Sequence[QueuedChange], tries: int = 1) -> None:
        """Run one transaction and resolve every change, even if the transaction fails."""
        # A transaction that was sent is never canceled, because it may be committing. A change that
        # has no outcome at its deadline is refused as OUTCOME_UNKNOWN.
        timer = RefusalTimer(batch, attrgetter("respond_before"), OUTCOME_UNKNOWN)
        try:
            async with self._pool.connection() as connection:
                changes = [queued.change for queued in batch]
                with metrics.BATCH_SECONDS.time():
                    outcomes, offerable = await self._transactions.run(
                        connection, changes, self._lock_seconds(batch)
                    )
        except (*NOT_CONNECTED, NotSent):
            resolve_all(batch, BUSY)
        except psycopg.Error as error:
            timer.cancel()  # the transaction has ended; a retry starts a timer of its own
            await self._handle_failure(batch, error, tries)
        else:
            self._is_stuck = False
            metrics.BATCH_REQUESTS.observe(len(batch))
            for queued, outcome in zip(batch, outcomes, strict=True):
                queued.resolve(outcome)
            self._on_offerable(offerable)
        finally:
            timer.cancel()

    async def _handle_failure(
        self, batch: Sequence[QueuedChange], error: psycopg.Error, tries: int
    ) -> None:
        """Resolve or retry a batch whose transaction ended with an error."""
        reason = "lost" if leaves_outcome_unknown(error) else (error.sqlstate or "")[:2]
        if is_lock_timeout(error):
            reason = "55"  # whichever timeout it was
        metrics.BATCHES_FAILED.labels(reason).inc()
        if leaves_outcome_unknown(error):
            log.warning(
                "the outcome of a batch of %d changes is unknown: %s", len(batch), loggable(error)
            )
            resolve_all(batch, OUTCOME_UNKNOWN)
        elif outcome := _outcome_of_error(batch, error):
            resolve_all(batch, outcome)
        elif error.sqlstate in _RETRIED and tries < limits.BATCH_TRIES:
            if retried := drop_overdue(batch):
                await self._carry_out(retried, tries + 1)
        else:
            await self._handle_rejection(batch, error)

    async def _handle_rejection(self, batch: Sequence[QueuedChange], error: psycopg.Error) -> None:
        """Resolve or split a batch that PostgreSQL has rolled back, when a retry would not help."""
        if is_lock_timeout(error):
            # All changes of the batch need the lock of the same event, so halves would fail too.
            # (It may also be one ticket that somebody has locked in psql.)
            self._is_stuck = True
            resolve_all(batch, BUSY)
        elif len(batch) > 1:
            await self._carry_out_halves(batch)
        elif (error.sqlstate or "").startswith(_TRANSIENT):
            log.info("a change was refused as BUSY: %s", loggable(error))
            resolve_all(batch, BUSY)
        else:
            log.error("a change has failed: %s", loggable(error))
            resolve_all(batch, INTERNAL_SERVER_ERROR)

    async def _carry_out_halves(self, batch: Sequence[QueuedChange]) -> None:
        half = len(batch) // 2
        # The second half is not sent yet. It is refused if the first takes too long.
        timer = RefusalTimer(batch[half:], attrgetter("send_before"), BUSY)
        if first := drop_overdue(batch[:half]):
            await self._carry_out(first)
        timer.cancel()
        if second := drop_overdue(batch[half:]):
            await self._carry_out(second)


class EventLanes:
    """The lanes of the events that have one of their own; true in a condition if there are any.

    A lane is created when the first change is put into it, and removed when it is idle.

    Args:
        pool, transactions, queries, spawn, on_offerable: those of each lane.
        for_all: whether every event has its own lane (BATCH_ACROSS_EVENTS is off).
    """

    def __init__(
        self,
        pool: AsyncConnectionPool,
        transactions: Transactions,
        queries: Queries,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_offerable: Callable[[set[Uuid]], None],
        for_all: bool,
    ) -> None:
        self._create = partial(
            Lane,
            pool,
            transactions,
            queries,
            # These lanes use all connections but one, which is left for the shared lane.
            slot=asyncio.Semaphore(limits.WRITE_CONNECTIONS - 1),
            spawn=spawn,
            on_offerable=on_offerable,
        )
        self._for_all = for_all
        self._lanes: dict[Uuid, Lane] = {}

    def __bool__(self) -> bool:
        return self._for_all or bool(self._lanes)

    def __contains__(self, event_id: Uuid) -> bool:
        return self._for_all or event_id in self._lanes

    def get(self, event_id: Uuid) -> Lane:
        """Return the lane of an event; create it if there is none."""
        lane = self._lanes.get(event_id)
        if lane is None:
            lane = self._create(on_idle=partial(self._remove, event_id))
            self._lanes[event_id] = lane
        return lane

    def _remove(self, event_id: Uuid) -> None:
        """Remove an idle lane, so that its event uses the shared lane again."""
        if (lane := self._lanes.get(event_id)) and lane.is_idle:
            del self._lanes[event_id]


def _outcome_of_error(batch: Sequence[QueuedChange], error: psycopg.Error) -> Outcome | None:
    """Return the outcome of an update that was refused by raising an error; None for other errors.

    An update runs alone, so it is the only change of its batch.
    """
    if isinstance(batch[0].change, Update):
        if error.sqlstate == _STATE_DIFFERS:
            return Outcome("precondition_failed")
        # Another event has its name and date. Citus passes on a worker's SQLSTATE, but not the
        # name of the table.
        if isinstance(error, psycopg.errors.UniqueViolation) and (
            error.diag.table_name in ("events", None)
        ):
            return Outcome("event_exists")
    return None
