"""Queued changes with their deadlines, and which of them go into one transaction.

A queued change has two deadlines. If it is not sent to PostgreSQL before the first, it is refused
as BUSY. If it was sent and has no outcome by the second, it is refused as OUTCOME_UNKNOWN.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service import limits
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.changes import Change, Outcome, Reserve


@dataclass(slots=True, eq=False)
class QueuedChange:
    """A change in a lane, and the future that its handler awaits."""

    change: Change
    result: asyncio.Future[Outcome | Refusal]
    # Both deadlines are in the event loop's time.
    send_before: float
    respond_before: float

    def resolve(self, result: Outcome | Refusal) -> None:
        """Give the handler its result, unless it has one already."""
        if not self.result.done():
            self.result.set_result(result)


class RefusalTimer:
    """Refuses each change of a batch at that change's own deadline, unless it is resolved by then.

    Args:
        batch: the changes.
        deadline_of: returns the deadline of a change: its ``send_before`` or ``respond_before``.
        refusal: the result of a change that is not resolved by then.
    """

    def __init__(
        self,
        batch: Sequence[QueuedChange],
        deadline_of: Callable[[QueuedChange], float],
        refusal: Refusal,
    ) -> None:
        self._pending = deque(sorted(batch, key=deadline_of))
        self._deadline_of = deadline_of
        self._refusal = refusal
        self._timer: asyncio.TimerHandle | None = None
        self._refuse_overdue()

    def _refuse_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending and self._deadline_of(self._pending[0]) <= loop.time():
            self._pending.popleft().resolve(self._refusal)
        if self._pending:
            self._timer = loop.call_at(self._deadline_of(self._pending[0]), self._refuse_overdue)

    def cancel(self) -> None:
        """Stop: no further change is refused."""
        if self._timer is not None:
            self._timer.cancel()


def take_batch(queue: deque[QueuedChange]) -> list[QueuedChange]:
    """Remove the changes of the next transaction from the head of a queue, and return them.

    Changes that are too late to be sent are refused instead.
    """
    batch: list[QueuedChange] = []
    quantities: dict[tuple[Uuid, str, str], int] = {}
    now = asyncio.get_running_loop().time()
    tickets = 0
    while queue and len(batch) < limits.MAX_BATCH_CHANGES:
        change = queue[0].change
        if queue[0].send_before <= now:
            queue.popleft().resolve(BUSY)
            continue
        if batch and (change.runs_alone or batch[0].change.runs_alone):
            break
        tickets += change.max_tickets
        if batch and tickets > limits.MAX_BATCH_TICKETS:
            break
        if isinstance(change, Reserve) and change.idempotency_key:
            # A key that is used again with another quantity waits for the next batch: its outcome
            # depends on the outcome of the first use.
            key = (change.event_id, change.user_fingerprint, change.idempotency_key)
            if quantities.setdefault(key, change.quantity) != change.quantity:
                break
        batch.append(queue.popleft())
    return batch


def needs_reservations(batch: Sequence[QueuedChange]) -> bool:
    """Whether ``keep_order`` needs the reservations of the tickets of a batch.

    It does if the batch changes a ticket and a reservation in different ways, such as to pay and to
    cancel: the ticket may belong to the reservation, which only the database knows.
    """
    of_tickets = {type(queued.change) for queued in batch if queued.change.ticket_id}
    of_reservations = {type(queued.change) for queued in batch if queued.change.reservation_id}
    return any(kind != other for kind in of_tickets for other in of_reservations)


def keep_order(
    batch: Sequence[QueuedChange], reservations: Mapping[Uuid, Uuid]
) -> tuple[list[QueuedChange], list[QueuedChange]]:
    """Split a batch so that of two changes of the same tickets the earlier one is decided first.

    A transaction carries out its changes kind by kind. So two changes of different kinds conflict
    if they are about the same ticket, the same reservation, or a ticket and its reservation. The
    later one is set aside, and so is every later change of the same ticket or reservation.

    Args:
        batch: the changes, in the order of their arrival.
        reservations: the reservation of each ticket of the batch that exists; needed only if
            ``needs_reservations``.

    Returns:
        The changes that may share a transaction, and those that are set aside for the next one.
    """
    kept: list[QueuedChange] = []
    aside: list[QueuedChange] = []
    # The kinds of the earlier changes; None stands for one that is set aside. A change of a ticket
    # is recorded under ("ticket", its id) and ("ticket of", its reservation), and a change of a
    # reservation under ("reservation", its id).
    earlier_kinds: defaultdict[tuple[str, Uuid], set[type[Change] | None]] = defaultdict(set)
    for queued in batch:
        change = queued.change
        kind: type[Change] | None = type(change)
        if change.ticket_id:
            reservation = reservations.get(change.ticket_id, Uuid(""))
            key, conflicting_key = ("ticket", change.ticket_id), ("reservation", reservation)
            second_key = ("ticket of", reservation)
        elif change.reservation_id:
            key = second_key = ("reservation", change.reservation_id)
            conflicting_key = ("ticket of", change.reservation_id)
        else:
            kept.append(queued)
            continue
        # One of another kind, or one that is set aside.
        if (earlier_kinds[key] | earlier_kinds[conflicting_key]) - {kind}:
            aside.append(queued)
            kind = None
        else:
            kept.append(queued)
        earlier_kinds[key].add(kind)
        earlier_kinds[second_key].add(kind)
    return kept, aside


def drop_overdue(batch: Sequence[QueuedChange]) -> list[QueuedChange]:
    """Refuse the changes that are too late to be sent, and return the others."""
    now = asyncio.get_running_loop().time()
    resolve_all([queued for queued in batch if queued.send_before <= now], BUSY)
    return [queued for queued in batch if queued.send_before > now]


def resolve_all(batch: Sequence[QueuedChange], result: Outcome | Refusal) -> None:
    """Resolve each change of a batch with the same result."""
    for queued in batch:
        queued.resolve(result)
