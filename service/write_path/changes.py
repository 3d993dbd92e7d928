"""The changes: each kind of request that changes an event's tickets, and its outcome.

Each kind names the statement that carries it out for a whole batch at once, and converts the
changes of a batch into the statement's parameters: arrays with one element for each change.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, Literal, Self

from msgspec import Struct

from service.rows import Event, TicketAllocation, Uuid

Row = tuple[Any, ...]


# What SQL decides about a change: that it was carried out, or why not.
OutcomeCode = Literal[
    "granted",
    "replayed",
    "busy",
    "not_found",
    "event_exists",
    "wrong_fingerprint",
    "hold_expired",
    "already_purchased",
    "already_cancelled",
    "already_refunded",
    "not_purchased",
    "not_enough_tickets",
    "tickets_sold_out",
    "idempotency_key_reused",
    "capacity_below_allocated",
    "more_to_expire",
]


class Outcome(Struct, frozen=True, gc=False):
    """What SQL decided about one change, with the data of the response."""

    code: OutcomeCode
    tickets: tuple[TicketAllocation, ...] = ()
    # More about a refusal: the number of tickets that are available or allocated, or the ticket
    # that decided the outcome.
    detail: int | Uuid | None = None
    # How many of the tickets this change moved; earlier changes may have moved the others.
    tickets_moved: int = 0
    # The event after an update.
    event: Event | None = None


def read_outcomes(rows: Iterable[Row], leading_columns: int = 2) -> Iterator[tuple[int, Outcome]]:
    """Read the rows of a statement.

    Each row has two to four leading columns: the number of the change (from 1), the outcome, the
    detail and the number of tickets moved. The columns of a ticket follow; they are null if there
    is no ticket. A change of several tickets has one row for each of them.

    Args:
        rows: the rows, in the order of their changes.
        leading_columns: how many leading columns the statement returns.

    Yields:
        The index of a change among the changes of its kind, and its outcome.
    """
    for number, group in groupby(rows, key=itemgetter(0)):
        rows_of_change = list(group)
        first = rows_of_change[0]
        tickets = tuple(
            TicketAllocation(*row[leading_columns:])
            for row in rows_of_change
            if row[leading_columns]
        )
        yield (
            number - 1,
            Outcome(
                code=first[1],
                tickets=tickets,
                detail=first[2] if leading_columns > 2 else None,
                tickets_moved=(first[3] or 0) if leading_columns > 3 else len(tickets),
            ),
        )


class Change(Struct, frozen=True, gc=False):
    """A request to change tickets."""

    # The statement of ``sql/`` that carries it out.
    statement: ClassVar[str]
    # The status that it gives to tickets, which is also their label in the metrics.
    new_status: ClassVar[str] = ""
    # How many leading columns the statement returns; see read_outcomes.
    leading_columns: ClassVar[int] = 2
    # Whether its batch contains no other change, so that its failure fails no other change.
    runs_alone: ClassVar[bool] = False
    # Whether it goes to its event's own lane, so that its work delays no other event.
    has_own_lane: ClassVar[bool] = False

    # Each change has exactly one of the next three ids.

    @property
    def event_id(self) -> Uuid | None:
        """The event; None if only the ticket or the reservation is known."""
        return None

    @property
    def ticket_id(self) -> Uuid | None:
        """The ticket, if it changes one ticket."""
        return None

    @property
    def reservation_id(self) -> Uuid | None:
        """The reservation, if it changes the tickets of one."""
        return None

    @property
    def tickets_needed(self) -> int:
        """How many available tickets it needs."""
        return 0

    @property
    def max_tickets(self) -> int:
        """How many tickets it moves at most; bounds the size of a batch."""
        return max(1, self.tickets_needed)

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the parameters of the statement for the changes of this kind in a batch."""
        raise NotImplementedError

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows of the statement: the index of each change, and its outcome."""
        return read_outcomes(rows, cls.leading_columns)


class ChangeByOwner(Change, frozen=True, gc=False, kw_only=True):
    """A change of a ticket, or of a reservation's tickets, that only their owner may make."""

    leading_columns = 4  # with deciding_ticket_id and tickets_moved
    user_fingerprint: str
    # One of these two is set. It determines the event, which never changes.
    ticket_id: Uuid | None = None
    reservation_id: Uuid | None = None
    max_tickets: int = 1  # for a reservation, the most tickets that one may have

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the tickets or reservations, and who makes the change."""
        return {
            "ticket_ids": [change.ticket_id for change in changes],
            "reservation_ids": [change.reservation_id for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
        }


class Cancel(ChangeByOwner, frozen=True, gc=False):
    """The owner cancels holds."""

    statement = "cancel_tickets"
    new_status = "user_cancelled"


class Refund(Change, frozen=True, gc=False):
    """The organizer refunds a purchase."""

    statement = "refund_tickets"
    new_status = "refunded"
    ticket_id: Uuid

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the tickets."""
        return {"ticket_ids": [change.ticket_id for change in changes]}


class Pay(ChangeByOwner, frozen=True, gc=False):
    """The owner pays for holds."""

    statement = "pay_tickets"
    new_status = "purchased"


class Update(Change, frozen=True, gc=False):
    """The organizer changes the name, the date or the number of tickets of an event."""

    statement = "update_event"
    runs_alone = True
    has_own_lane = True  # it may need many transactions
    event_id: Uuid
    # A JSON object with any of name, date and total_tickets.
    changes: str

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the event and its changes; an update runs alone."""
        (change,) = changes
        return {"event_id": change.event_id, "changes": change.changes}

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the one row: outcome and allocated_tickets."""
        for code, allocated_tickets in rows:
            yield 0, Outcome(code, detail=allocated_tickets)


class Reserve(Change, frozen=True, gc=False):
    """A buyer reserves tickets, all of them or none."""

    statement = "reserve_tickets"
    new_status = "reserved"
    leading_columns = 3  # with available_tickets
    event_id: Uuid
    quantity: int
    user_fingerprint: str
    idempotency_key: str  # '' for none

    @property
    def tickets_needed(self) -> int:
        """How many available tickets it needs."""
        return self.quantity

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the events, the quantities, the buyers and their keys."""
        return {
            "event_ids": [change.event_id for change in changes],
            "quantities": [change.quantity for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
            "idempotency_keys": [change.idempotency_key for change in changes],
        }


class Expire(Change, frozen=True, gc=False):
    """The sweeper expires the holds of an event that are due.

    Every batch expires the holds that are due, so this change has no statement of its own.
    """

    has_own_lane = True
    event_id: Uuid


# The order of the statements in a batch: changes that release tickets come before reservations,
# so that no reservation is refused while a ticket is being released.
KINDS_IN_ORDER: tuple[type[Change], ...] = (Cancel, Refund, Pay, Update, Reserve)
