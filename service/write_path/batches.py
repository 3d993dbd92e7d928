"""Batches: queued changes with their deadlines, and how many of them go into one transaction.

A queued change has two deadlines: it is refused as BUSY if it has not been sent before the first,
and its handler has a result before the second.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service import limits
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.changes import Change, Outcome, Reserve


@dataclass(slots=True, eq=False)
class QueuedChange:
    """A change in a lane, and the future on which its handler waits."""

    change: Change
    result: asyncio.Future[Outcome | Refusal]
    # Both in the event loop's time.
    send_before: float
    answer_before: float

    def resolve(self, result: Outcome | Refusal) -> None:
        """Hand the result to the handler, unless it has one already."""
        if not self.result.done():
            self.result.set_result(result)


class Deadline:
    """Resolves each change of a batch with a refusal when its time is up."""

    def __init__(
        self,
        batch: Sequence[QueuedChange],
        when: Callable[[QueuedChange], float],
        refusal: Refusal,
    ) -> None:
        self._pending = deque(sorted(batch, key=when))
        self._when = when
        self._refusal = refusal
        self._timer: asyncio.TimerHandle | None = None
        self._refuse_overdue()

    def _refuse_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending and self._when(self._pending[0]) <= loop.time():
            self._pending.popleft().resolve(self._refusal)
        if self._pending:
            self._timer = loop.call_at(self._when(self._pending[0]), self._refuse_overdue)

    def cancel(self) -> None:
        """Resolve nothing any more."""
        if self._timer is not None:
            self._timer.cancel()


def take_batch(queue: deque[QueuedChange]) -> list[QueuedChange]:
    """Take from the head of a queue what may go into one transaction."""
    batch: list[QueuedChange] = []
    keys: dict[tuple[Uuid, str, str], int] = {}
    now = asyncio.get_running_loop().time()
    tickets = 0
    while queue and len(batch) < limits.BATCH_REQUESTS:
        change = queue[0].change
        if queue[0].send_before <= now:
            queue.popleft().resolve(BUSY)
            continue
        if batch and (change.stands_alone or batch[0].change.stands_alone):
            break
        tickets += change.tickets_moved
        if batch and tickets > limits.BATCH_TICKETS:
            break
        if isinstance(change, Reserve) and change.idempotency_key:
            # One key with two quantities: the second is judged by what became of the first,
            # and so waits for the next batch.
            key = (change.event_id, change.user_fingerprint, change.idempotency_key)
            if keys.setdefault(key, change.quantity) != change.quantity:
                break
        batch.append(queue.popleft())
    return batch


def refuse_late(batch: Sequence[QueuedChange]) -> list[QueuedChange]:
    """Refuse those of a batch that are too late to be sent again, and return the others."""
    now = asyncio.get_running_loop().time()
    resolve_all([queued for queued in batch if queued.send_before <= now], BUSY)
    return [queued for queued in batch if queued.send_before > now]


def resolve_all(batch: Sequence[QueuedChange], result: Outcome | Refusal) -> None:
    """Resolve each change of a batch with the same result."""
    for queued in batch:
        queued.resolve(result)
