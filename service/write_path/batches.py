"""Queued changes with their deadlines, and which of them go into one transaction.

A queued change has two deadlines. If it is not sent to PostgreSQL before the first, it is refused
as BUSY. If it was sent and has no outcome by the second, it is refused as OUTCOME_UNKNOWN.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service import limits
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.changes import Change, Join, Reserve
from service.write_path.outcomes import Outcome

# What changes are about: a ticket, a reservation, a part of a reservation, or an idempotency key.
Subject = tuple[str, ...]


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
        batch.append(queue.popleft())
    return batch


def needs_reservations(batch: Sequence[QueuedChange]) -> bool:
    """Whether ``keep_order`` needs the reservations of the tickets of a batch.

    It does if the batch changes a ticket and a reservation in different ways, such as to pay and to
    cancel: the ticket may belong to the reservation, which only the database knows. The same holds
    for two changes of one kind that may not share a ticket.
    """
    of_tickets = {type(queued.change) for queued in batch if queued.change.ticket_id}
    of_reservations = {type(queued.change) for queued in batch if queued.change.reservation_id}
    return any(
        kind != other or not kind.may_share_ticket
        for kind in of_tickets
        for other in of_reservations
    )


def keep_order(
    batch: Sequence[QueuedChange], reservations: Mapping[Uuid, Uuid]
) -> tuple[list[QueuedChange], list[QueuedChange]]:
    """Split a batch so that of two changes of the same tickets the earlier one is decided first.

    A transaction carries out its changes kind by kind. So two changes of different kinds conflict
    if they are about the same ticket, the same reservation, or a ticket and its reservation; so do
    two of the same kind if that kind may not share a ticket, two reservations that use one
    idempotency key for different quantities, and two requests of a person to join one line. The
    later one is set aside, and so is every later change with the same subject. Of one subject,
    MAX_CHANGES_ASIDE are set aside and further ones refused as BUSY: else one client could fill
    every batch with changes of one ticket.

    Args:
        batch: the changes, in the order of their arrival.
        reservations: the reservation of each ticket of the batch that exists; needed only if
            ``needs_reservations``.

    Returns:
        The changes that may share a transaction, and those that are set aside for the next one.
    """
    kept: list[QueuedChange] = []
    aside: list[QueuedChange] = []
    # For each subject, what the earlier changes of it do: their kinds, or the quantities of an
    # idempotency key. None stands for a change that is set aside.
    earlier: defaultdict[Subject, set[type[Change] | int | None]] = defaultdict(set)
    waiting: Counter[Subject] = Counter()
    for queued in batch:
        change = queued.change
        subject, conflicting, recorded = _subjects(change, reservations)
        if subject is None:
            kept.append(queued)
            continue
        action = change.quantity if isinstance(change, Reserve) else type(change)
        harmless = {action} if change.may_share_ticket else set()
        if not (earlier[subject] | earlier[conflicting]) - harmless:
            kept.append(queued)
            earlier[subject].add(action)
            earlier[recorded].add(action)
        elif waiting[subject] < limits.MAX_CHANGES_ASIDE:
            aside.append(queued)
            waiting[subject] += 1
            earlier[subject].add(None)
            earlier[recorded].add(None)
        else:
            queued.resolve(BUSY)
    return kept, aside


def _subjects(
    change: Change, reservations: Mapping[Uuid, Uuid]
) -> tuple[Subject | None, Subject, Subject]:
    """Return what a change is about, with what it conflicts besides, and what else it stands for.

    The subject is None if the change can conflict with no other.
    """
    if change.ticket_id:
        reservation = reservations.get(change.ticket_id, "")
        return ("ticket", change.ticket_id), ("reservation", reservation), ("part", reservation)
    if change.reservation_id:
        subject = ("reservation", change.reservation_id)
        return subject, ("part", change.reservation_id), subject
    if isinstance(change, Reserve) and change.idempotency_key:
        key = ("key", change.event_id, change.user_fingerprint, change.idempotency_key)
        return key, key, key
    if isinstance(change, Join):
        person = ("person", change.event_id, change.user_fingerprint)
        return person, person, person
    return None, (), ()


def drop_overdue(batch: Sequence[QueuedChange]) -> list[QueuedChange]:
    """Refuse the changes that are too late to be sent, and return the others."""
    now = asyncio.get_running_loop().time()
    resolve_all([queued for queued in batch if queued.send_before <= now], BUSY)
    return [queued for queued in batch if queued.send_before > now]


def resolve_all(batch: Sequence[QueuedChange], result: Outcome | Refusal) -> None:
    """Resolve each change of a batch with the same result."""
    for queued in batch:
        queued.resolve(result)
