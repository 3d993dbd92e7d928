"""Lanes: changes that wait, in the order in which they came, and what each of them is told.

A lane has at most one transaction under way, but for one that stands still. Who waits has two
times: before the one it must be sent, or it is BUSY; before the other it must be answered.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service import limits
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.changes import Change, Outcome, Reserve


@dataclass(slots=True, eq=False)
class Waiting:
    """A change in a lane, and the future in which its handler waits for the answer."""

    change: Change
    answer: asyncio.Future[Outcome | Refusal]
    send_before: float
    """In the event loop's time, as is the next."""
    answer_before: float

    def tell(self, answer: Outcome | Refusal) -> None:
        """Answer, unless that was done before."""
        if not self.answer.done():
            self.answer.set_result(answer)


@dataclass(slots=True, eq=False)
class Lane:
    """Changes in the order in which they came."""

    key: Uuid
    waiting: deque[Waiting] = field(default_factory=deque)
    runner: object | None = None
    """Who carries out its batches; None: nobody, since nothing waits."""
    is_stuck: bool = False
    """Whether the last batch could not have its lock: then its event stays apart."""
    timer: asyncio.TimerHandle | None = None


class Deadline:
    """Tells each of a batch who still waits when their time is up."""

    def __init__(
        self, batch: Sequence[Waiting], when: Callable[[Waiting], float], answer: Refusal
    ) -> None:
        self._waiting = deque(sorted(batch, key=when))
        self._when = when
        self._answer = answer
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._when(self._waiting[0]) <= loop.time():
            self._waiting.popleft().tell(self._answer)
        if self._waiting:
            self._timer = loop.call_at(self._when(self._waiting[0]), self._look)

    def cancel(self) -> None:
        """Tell nobody any more."""
        if self._timer is not None:
            self._timer.cancel()


def take_batch(waiting: deque[Waiting]) -> list[Waiting]:
    """Take from the head of a line what may go into one transaction."""
    batch: list[Waiting] = []
    keys: dict[tuple[Uuid, str, str], int] = {}
    now = asyncio.get_running_loop().time()
    tickets = 0
    while waiting and len(batch) < limits.BATCH_REQUESTS:
        change = waiting[0].change
        if waiting[0].send_before <= now:
            waiting.popleft().tell(BUSY)
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
        batch.append(waiting.popleft())
    return batch


def in_time(batch: Sequence[Waiting]) -> list[Waiting]:
    """Refuse those of a batch whose time to be sent again is over, and return the others."""
    now = asyncio.get_running_loop().time()
    tell_all([one for one in batch if one.send_before <= now], BUSY)
    return [one for one in batch if one.send_before > now]


def tell_all(batch: Sequence[Waiting], answer: Outcome | Refusal) -> None:
    """Tell each of a batch the same."""
    for one in batch:
        one.tell(answer)
