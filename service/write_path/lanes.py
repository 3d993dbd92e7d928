"""Lanes: changes in the order of their arrival, and the runner that carries them out in batches.

A lane has at most one transaction under way, unless that transaction stands still: then a second
runner takes over.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from operator import attrgetter
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits, metrics
from service.database.connections import NO_CONNECTION, has_broken, loggable
from service.database.pipeline import NotSent
from service.logs import REQUEST_ID
from service.refusals import BUSY, INTERNAL_SERVER_ERROR, OUTCOME_UNKNOWN
from service.rows import Uuid
from service.write_path.batches import (
    Deadline,
    QueuedChange,
    refuse_late,
    resolve_all,
    take_batch,
)
from service.write_path.changes import Outcome, Update
from service.write_path.transaction import Transactions

log = logging.getLogger(__name__)

# The key of the lane that all events share which have none of their own.
SHARED = Uuid("")

# What PostgreSQL itself asks to be tried again as it was: serialization, deadlock.
_RETRIED = ("40001", "40P01")

# Errors that undid a transaction and may be gone a moment later: also a lock or a statement that
# took too long, a server that is read-only just now, and insufficient resources (class 53).
_TRANSIENT = (*_RETRIED, "55P03", "57014", "25006", "53")


class Lane:
    """Changes in the order of their arrival, carried out one batch after the other.

    Args:
        key: the event whose changes these are, or SHARED.
        pool: connections for the transactions.
        transactions: carries out a batch.
        turn: entered for each batch; bounds how many lanes are in a transaction at once.
        spawn: starts a task that is kept until it ends.
        deal_out: gives the changes of a failed batch of the shared lane to lanes of one event
            each, and returns those that stay; its second argument says whether a lock failed it.
        on_idle: called when the lane has nothing to do, or had, a moment ago.
    """

    def __init__(
        self,
        key: Uuid,
        pool: AsyncConnectionPool,
        transactions: Transactions,
        *,
        turn: AbstractAsyncContextManager[None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        deal_out: Callable[[Sequence[QueuedChange], bool], Awaitable[list[QueuedChange]]],
        on_idle: Callable[["Lane"], None],
    ) -> None:
        self.key = key
        self._pool = pool
        self._transactions = transactions
        self._turn = turn
        self._spawn = spawn
        self._deal_out = deal_out
        self._on_idle = on_idle
        self._queue: deque[QueuedChange] = deque()
        # Identifies the task that carries out the batches; None while nothing is queued.
        self._runner: object | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Whether the last batch could not have its lock: then its event stays apart for a while.
        self._is_stuck = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and nothing is under way."""
        return self._runner is None and not self._queue

    def add(self, queued: QueuedChange) -> None:
        """Queue a change, and start a runner if there is none."""
        self._queue.append(queued)
        if self._timer is None:
            self._refuse_overdue()
        if self._runner is None:
            self._start_runner()

    def _refuse_overdue(self) -> None:
        """Refuse what could not be sent in time, and set the timer for the next one."""
        loop = asyncio.get_running_loop()
        while self._queue and self._queue[0].send_before <= loop.time():
            self._queue.popleft().resolve(BUSY)
        self._timer = None
        if self._queue:
            self._timer = loop.call_at(self._queue[0].send_before, self._refuse_overdue)

    def _start_runner(self) -> None:
        """Start the first runner, or one in the place of one that stands still."""
        self._runner = object()
        self._spawn(self._run(self._runner))

    async def _run(self, runner: object) -> None:
        """Carry out batch after batch until nothing is queued or another runner has taken over."""
        loop = asyncio.get_running_loop()
        REQUEST_ID.set("")  # what goes wrong with a batch is no one request's
        while self._queue and self._runner is runner:
            async with self._turn:
                if batch := take_batch(self._queue):
                    # A server that stands still keeps its connection and its runner. Not a
                    # task for each batch: the next one is sent before this one is answered.
                    standstill = loop.call_later(limits.DEADLINE_SECONDS, self._start_runner)
                    try:
                        await self._carry_out(batch)
                    except Exception:
                        log.exception("a batch of %d has failed", len(batch))
                        resolve_all(batch, INTERNAL_SERVER_ERROR)
                    standstill.cancel()
        if self._runner is runner:
            self._runner = None
            if self._is_stuck:
                loop.call_later(limits.STUCK_SECONDS, self._on_idle, self)
            else:
                self._on_idle(self)

    async def _carry_out(self, batch: Sequence[QueuedChange], tries: int = 1) -> None:
        """Run one transaction and resolve every change; if it fails, isolate what fails."""
        # A sent pipeline is not called back: it may just be committing. It is left to end,
        # and at the deadline each change of it is resolved as unknown.
        deadline = Deadline(batch, attrgetter("answer_before"), OUTCOME_UNKNOWN)
        is_shared = self.key == SHARED
        lock_seconds = limits.SHARED_LOCK_SECONDS if is_shared else limits.LOCK_SECONDS
        try:
            async with self._pool.connection() as connection:
                changes = [queued.change for queued in batch]
                with metrics.BATCH_SECONDS.time():
                    outcomes = await self._transactions.run(connection, changes, lock_seconds)
        except (*NO_CONNECTION, NotSent):
            resolve_all(batch, BUSY)
        except psycopg.Error as error:
            deadline.cancel()
            await self._handle_failure(batch, error, tries)
        else:
            self._is_stuck = False
            metrics.BATCH_REQUESTS.observe(len(batch))
            for queued, outcome in zip(batch, outcomes, strict=True):
                queued.resolve(outcome)
        finally:
            deadline.cancel()

    async def _handle_failure(
        self, batch: Sequence[QueuedChange], error: psycopg.Error, tries: int
    ) -> None:
        """Retry, split or resolve a batch that was not committed, or perhaps was."""
        reason = "lost" if has_broken(error) else (error.sqlstate or "")[:2]
        metrics.BATCHES_FAILED.labels(reason).inc()
        if has_broken(error):
            log.warning(
                "nobody knows what became of a batch of %d: %s", len(batch), loggable(error)
            )
            resolve_all(batch, OUTCOME_UNKNOWN)
        elif _is_name_taken(batch, error):
            resolve_all(batch, Outcome("event_exists"))
        elif error.sqlstate in _RETRIED and tries < limits.BATCH_TRIES:
            if retried := refuse_late(batch):
                await self._carry_out(retried, tries + 1)
        elif self.key == SHARED:
            is_locked = isinstance(error, psycopg.errors.LockNotAvailable)
            self._queue.extendleft(reversed(await self._deal_out(batch, is_locked)))
            if self._timer is None:
                self._refuse_overdue()
        elif isinstance(error, psycopg.errors.LockNotAvailable):
            # They all want the one lock, or else a ticket that somebody holds in psql.
            self._is_stuck = True
            resolve_all(batch, BUSY)
        elif len(batch) > 1:
            await self._carry_out_halves(batch)
        elif (error.sqlstate or "").startswith(_TRANSIENT):
            log.info("one change is told to come again: %s", loggable(error))
            resolve_all(batch, BUSY)
        else:
            log.error("a change has failed: %s", loggable(error))
            resolve_all(batch, INTERNAL_SERVER_ERROR)

    async def _carry_out_halves(self, batch: Sequence[QueuedChange]) -> None:
        half = len(batch) // 2
        # Nothing of the second half is sent yet: should the first take long, it is refused.
        deadline = Deadline(batch[half:], attrgetter("send_before"), BUSY)
        if first := refuse_late(batch[:half]):
            await self._carry_out(first)
        deadline.cancel()
        if second := refuse_late(batch[half:]):
            await self._carry_out(second)


def _is_name_taken(batch: Sequence[QueuedChange], error: psycopg.Error) -> bool:
    """Whether an update, which stands alone, has met another event of its name and date."""
    return (
        isinstance(batch[0].change, Update)
        and isinstance(error, psycopg.errors.UniqueViolation)
        # Citus passes on the SQLSTATE of a worker's error, and no name of a table.
        and error.diag.table_name in ("events", None)
    )
