"""The changes: everything that can be asked of an event's tickets, and what becomes of it.

Each kind names the statement that carries it out for a whole batch at once, and how the
batch's requests become the statement's arrays: one element of each array for a request.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, Literal, Self

from msgspec import Struct

from service.limits import MAX_INTEGER
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
]


class Outcome(Struct, frozen=True, gc=False):
    """What became of one change: a word of its statement, and what goes with it."""

    code: OutcomeCode
    tickets: tuple[TicketAllocation, ...] = ()
    detail: int | Uuid | None = None
    """What a refusal turns on: how many tickets are available, or allocated, or which ticket
    decided it."""
    tickets_moved: int = 0
    """How many of the tickets this change itself has moved."""
    event: Event | None = None
    """The event after an update."""


def read_outcomes(rows: Iterable[Row], columns: int = 2) -> Iterator[tuple[int, Outcome]]:
    """Read what a statement returned: request, outcome, perhaps a detail, then a ticket's columns.

    Args:
        rows: in the order of their requests; several where a request has several tickets.
        columns: how many stand before the ticket's own, which are null where there is none:
            request, outcome, from 3 on the detail, from 4 on how many tickets moved.

    Yields:
        The place of the request among those sent, from 0, and its outcome.
    """
    for request, group in groupby(rows, key=itemgetter(0)):
        found = list(group)
        code, detail = found[0][1], found[0][2] if columns > 2 else None
        tickets = tuple(TicketAllocation(*row[columns:]) for row in found if row[columns])
        moved = len(tickets) if columns < 4 else found[0][3] or 0
        yield request - 1, Outcome(code, tickets, detail, moved)


class Change(Struct, frozen=True, gc=False):
    """A request to the write path."""

    statement: ClassVar[str]
    becomes: ClassVar[str] = ""
    """What a ticket is after it, as the metrics call it."""
    stands_alone: ClassVar[bool] = False
    """Whether it has a transaction of its own, since its failure must not fail others."""
    goes_apart: ClassVar[bool] = False
    """Whether it goes into its event's own lane, since its work must not hold up others."""

    @property
    def event(self) -> Uuid | None:
        """The event it concerns; None: that of its ticket or its reservation."""
        return None

    @property
    def ticket(self) -> Uuid | None:
        """The ticket it concerns, where it does not know the event."""
        return None

    @property
    def reservation(self) -> Uuid | None:
        """The reservation it concerns, where it does not know the event."""
        return None

    @property
    def tickets_wanted(self) -> int:
        """How many tickets it takes."""
        return 0

    @property
    def tickets_moved(self) -> int:
        """How many tickets it moves at most, for the size of a batch."""
        return max(1, self.tickets_wanted)

    @classmethod
    def arrays(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the parameters of the statement for a batch of this kind."""
        raise NotImplementedError

    @classmethod
    def outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows of the statement."""
        return read_outcomes(rows)


class OfEvent(Change, frozen=True, gc=False):
    """A change that knows its event."""

    event_id: Uuid

    @property
    def event(self) -> Uuid:
        """The event it concerns."""
        return self.event_id


class OfOwner(Change, frozen=True, gc=False, kw_only=True):
    """A change of one ticket, or of those of one reservation, that only their owner may make."""

    user_fingerprint: str
    ticket_id: Uuid | None = None
    reservation_id: Uuid | None = None
    """The one or the other; neither ever changes its event."""
    tickets_at_most: int = 1
    """How many tickets it may move, for the size of a batch."""

    @property
    def ticket(self) -> Uuid | None:
        """The ticket it concerns, if it is about one."""
        return self.ticket_id

    @property
    def reservation(self) -> Uuid | None:
        """The reservation it concerns, if it is about one."""
        return self.reservation_id

    @property
    def tickets_moved(self) -> int:
        """How many tickets it moves at most."""
        return self.tickets_at_most

    @classmethod
    def arrays(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the tickets or reservations, and who asks."""
        return {
            "ticket_ids": [change.ticket_id for change in changes],
            "reservation_ids": [change.reservation_id for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
        }

    @classmethod
    def outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows: deciding_ticket_id and tickets_moved stand before the ticket."""
        return read_outcomes(rows, columns=4)


class Cancel(OfOwner, frozen=True, gc=False):
    """The owner cancels holds."""

    statement = "cancel_tickets"
    becomes = "user_cancelled"


class Refund(Change, frozen=True, gc=False):
    """The organizer refunds a purchase."""

    statement = "refund_tickets"
    becomes = "refunded"
    ticket_id: Uuid

    @property
    def ticket(self) -> Uuid:
        """The ticket it concerns."""
        return self.ticket_id

    @classmethod
    def arrays(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the tickets."""
        return {"ticket_ids": [change.ticket_id for change in changes]}


class Pay(OfOwner, frozen=True, gc=False):
    """The owner pays for holds."""

    statement = "pay_tickets"
    becomes = "purchased"


class Update(OfEvent, frozen=True, gc=False):
    """The organiser renames, moves or resizes an event."""

    statement = "update_event"
    stands_alone = True
    changes: str
    """A JSON object with any of name, date and total_tickets."""

    @property
    def tickets_wanted(self) -> int:
        """How many tickets it takes: every lapsed one may be what it has to shrink by."""
        return MAX_INTEGER

    @classmethod
    def arrays(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the event and its changes: it stands alone."""
        (change,) = changes
        return {"event_id": change.event_id, "changes": change.changes}

    @classmethod
    def outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the one row: outcome and allocated_tickets."""
        for code, allocated_tickets in rows:
            yield 0, Outcome(code, detail=allocated_tickets)


class Reserve(OfEvent, frozen=True, gc=False):
    """A buyer wants tickets, all of them or none."""

    statement = "reserve_tickets"
    becomes = "reserved"
    quantity: int
    user_fingerprint: str
    idempotency_key: str
    """'' for none."""

    @property
    def tickets_wanted(self) -> int:
        """How many tickets it takes."""
        return self.quantity

    @classmethod
    def arrays(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return who wants how many of what."""
        return {
            "event_ids": [change.event_id for change in changes],
            "quantities": [change.quantity for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
            "idempotency_keys": [change.idempotency_key for change in changes],
        }

    @classmethod
    def outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows: available_tickets stands before the ticket."""
        return read_outcomes(rows, columns=3)


class Expire(OfEvent, frozen=True, gc=False):
    """The clock frees what is due. Every batch does so for its events; this asks for no more."""

    goes_apart = True


IN_ORDER: tuple[type[Change], ...] = (
    Cancel,
    Refund,
    Pay,
    Update,
    Reserve,
)
"""What gives tickets back comes before what takes them, so that nobody is refused for nothing."""
