"""The changes: each kind of request that changes an event's tickets, and its outcome.

Each kind names the statement that carries it out for a whole batch at once, and converts the
changes of a batch into the statement's parameters: arrays with one element for each change.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, Literal, NamedTuple, Self

import msgspec
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
    "precondition_failed",
    "event_changed",
    "contradictory_terms",
    "sale_not_open",
    "sale_closed",
    "limit_reached",
    "waiting_list_first",
    "waiting_list_full",
    "already_waiting",
    "already_left",
    "wrong_fingerprint",
    "hold_expired",
    "hold_at_maximum",
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
    # More about a refusal.
    detail: "Detail" = None
    # How many of the tickets this change itself has changed. The others may have been changed
    # before, by an earlier request.
    tickets_moved: int = 0
    # How many of these had expired and were reacquired.
    tickets_reacquired: int = 0
    # The event after an update.
    event: Event | None = None


# max_tickets_per_person, how many tickets the person holds, and how many the person has purchased.
Person = tuple[int, int, int]


class ReservationRefusal(NamedTuple):
    """The columns of ``reserve_tickets`` that say why a reservation was refused."""

    available_tickets: int | None  # None if there is no such event
    waiting_tickets: int | None  # how many tickets those who wait in line want
    # For sale_not_open the time when the sale opens, for sale_closed the time when it closed.
    sale_turns_at: datetime | None
    opens_in: float | None  # for sale_not_open, in seconds
    person: Person | None  # for limit_reached


class LatePaymentRefusal(NamedTuple):
    """The columns of ``reacquire_tickets`` that say why a late payment was refused."""

    deciding_ticket_id: Uuid | None
    available_tickets: int | None
    waiting_tickets: int | None  # how many tickets those who wait in line want
    person: Person | None  # for limit_reached


class JoinResult(NamedTuple):
    """The columns of ``join_waiting_list`` after the outcome."""

    entry_id: Uuid | None  # for granted and replayed
    total_tickets: int | None
    sale_turns_at: datetime | None  # as in ReservationRefusal, like the next two
    opens_in: float | None
    person: Person | None


# More about a refusal. Which of these it is depends on the kind of the change and on the code:
# - int: the number of allocated tickets (refund, update), or the event's revision (update)
# - Uuid: the ticket that decided the outcome (cancel, pay, extend)
# - list: the columns with contradictory terms (update)
# - ReservationRefusal: why no tickets were reserved (reserve)
# - LatePaymentRefusal: why no tickets were reacquired (reacquire)
# - Person: the new owner (transfer)
# - JoinResult: the entry, or why there is none (join)
Detail = (
    int | Uuid | list[str] | ReservationRefusal | LatePaymentRefusal | Person | JoinResult | None
)


def read_outcomes(rows: Iterable[Row], leading_columns: int = 2) -> Iterator[tuple[int, Outcome]]:
    """Read the rows that a statement returned for its changes.

    Each row has two to four leading columns: the number of the change (from 1), the outcome, the
    detail and ``tickets_moved``. The columns of a ticket follow; they are null if there is no
    ticket. A change of several tickets has one row for each of them.

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
    # The status that it gives to tickets, which is also their label in the metrics; '' for none.
    new_status: ClassVar[str] = ""
    # How many leading columns the statement returns; see read_outcomes.
    leading_columns: ClassVar[int] = 2
    # Whether a batch may contain several changes of this kind for the same ticket.
    may_share_ticket: ClassVar[bool] = True
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
        """How many tickets it changes at most; bounds the size of a batch."""
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


class Refund(Change, frozen=True, gc=False, kw_only=True):
    """The organizer refunds a purchase, or all purchases of a reservation."""

    statement = "refund_tickets"
    new_status = "refunded"
    leading_columns = 4  # with allocated_tickets and tickets_moved
    # One of these two is set. It determines the event, which never changes.
    ticket_id: Uuid | None = None
    reservation_id: Uuid | None = None
    # Whether the tickets become available again; if not, the event's total shrinks by them.
    resale: bool = True
    max_tickets: int = 1  # for a reservation, the most tickets that one may have

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the tickets or reservations, and whether they are for resale."""
        return {
            "ticket_ids": [change.ticket_id for change in changes],
            "reservation_ids": [change.reservation_id for change in changes],
            "resale": [change.resale for change in changes],
        }


class Pay(ChangeByOwner, frozen=True, gc=False):
    """The owner pays for holds."""

    statement = "pay_tickets"
    new_status = "purchased"


class Reacquire(ChangeByOwner, frozen=True, gc=False):
    """The owner pays for tickets although their holds may have expired."""

    statement = "reacquire_tickets"
    new_status = "purchased"
    may_share_ticket = False

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows.

        Their columns are the number of the change, the outcome, the deciding ticket, how many
        tickets were paid for and how many of these reacquired, how many were available and how many
        wanted by those in line, the person, and those of a ticket.
        """
        for number, group in groupby(rows, key=itemgetter(0)):
            rows_of_change = list(group)
            _, outcome, deciding_ticket_id, moved, reacquired, *numbers = rows_of_change[0]
            tickets = tuple(TicketAllocation(*row[8:]) for row in rows_of_change if row[8])
            yield (
                number - 1,
                Outcome(
                    outcome,
                    tickets,
                    LatePaymentRefusal(deciding_ticket_id, *numbers[:3]),
                    tickets_moved=moved or 0,
                    tickets_reacquired=reacquired or 0,
                ),
            )


class Transfer(Change, frozen=True, gc=False, kw_only=True):
    """The owner gives a ticket to a new owner."""

    statement = "transfer_tickets"
    leading_columns = 3  # with person
    may_share_ticket = False
    ticket_id: Uuid
    user_fingerprint: str
    new_user_fingerprint: str

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the tickets, their owners and their new owners."""
        return {
            "ticket_ids": [change.ticket_id for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
            "new_user_fingerprints": [change.new_user_fingerprint for change in changes],
        }


class Extend(ChangeByOwner, frozen=True, gc=False):
    """The owner extends the holds of a reservation."""

    statement = "extend_reservations"

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the reservations, and who asks."""
        parameters = super().parameters(changes)
        del parameters["ticket_ids"]
        return parameters


class Update(Change, frozen=True, gc=False):
    """The organizer changes an event, or the terms of its sale."""

    statement = "update_event"
    runs_alone = True
    has_own_lane = True  # it may need many transactions
    event_id: Uuid
    # The parameter ``changes`` of the statement, as JSON.
    changes: str
    # The event must be in one of these states; None for any. A state is a version, a number of
    # available tickets, updated_at and a sale status (``match_event``).
    states: tuple[tuple[int, int, datetime, str], ...] | None = None

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the event and its changes; an update runs alone."""
        (change,) = changes
        return {"event_id": change.event_id, "changes": change.changes}

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the only row: its columns are outcome, detail and bad."""
        for code, detail, bad_columns in rows:
            yield 0, Outcome(code, detail=bad_columns or detail)

    def continued(self, revision: int) -> "Update":
        """Return the update to submit again after ``more_to_expire``.

        It needs no states: the event was in one of them in the first transaction, and has left it
        because holds have expired. Instead, its revision must still be the given one.
        """
        changes = {**msgspec.json.decode(self.changes), "revision": revision}
        return Update(self.event_id, msgspec.json.encode(changes).decode())

    def match_parameters(self) -> dict[str, Any]:
        """Return the parameters of ``match_event``: an array for each part of the states."""
        states = self.states or ()
        return {
            "event_id": self.event_id,
            "versions": [version for version, _, _, _ in states],
            "available_tickets": [available for _, available, _, _ in states],
            "updated_at": [updated_at.isoformat() for _, _, updated_at, _ in states],
            "sale_statuses": [sale_status for _, _, _, sale_status in states],
        }


class Reserve(Change, frozen=True, gc=False):
    """A buyer reserves tickets, all of them or none."""

    statement = "reserve_tickets"
    new_status = "reserved"
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

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows.

        Their columns are the number of the change, the outcome, the five of ReservationRefusal, and
        those of a ticket.
        """
        for number, group in groupby(rows, key=itemgetter(0)):
            rows_of_change = list(group)
            _, outcome, *columns = rows_of_change[0]
            if outcome in ("granted", "replayed"):
                tickets = tuple(TicketAllocation(*row[7:]) for row in rows_of_change if row[7])
                yield number - 1, Outcome(outcome, tickets, tickets_moved=len(tickets))
            else:
                yield number - 1, Outcome(outcome, detail=ReservationRefusal(*columns[:5]))


class Join(Change, frozen=True, gc=False):
    """Somebody joins the waiting list of an event."""

    statement = "join_waiting_list"
    may_share_ticket = False
    event_id: Uuid
    quantity: int
    user_fingerprint: str

    @property
    def tickets_needed(self) -> int:
        """How many available tickets it needs for an offer at once."""
        return self.quantity

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the events, the quantities and the people."""
        return {
            "event_ids": [change.event_id for change in changes],
            "quantities": [change.quantity for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
        }

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows: the number of the change, the outcome, and those of JoinResult."""
        for number, outcome, *columns in rows:
            yield number - 1, Outcome(outcome, detail=JoinResult(*columns))


class Leave(Change, frozen=True, gc=False):
    """Somebody leaves the waiting list of an event; an open offer is cancelled."""

    statement = "leave_waiting_list"
    new_status = "user_cancelled"
    event_id: Uuid
    entry_id: Uuid
    user_fingerprint: str

    @classmethod
    def parameters(cls, changes: Sequence[Self]) -> dict[str, Any]:
        """Return the events, the entries, and who leaves."""
        return {
            "event_ids": [change.event_id for change in changes],
            "entry_ids": [change.entry_id for change in changes],
            "user_fingerprints": [change.user_fingerprint for change in changes],
        }

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows: the number of the change, the outcome and the cancelled tickets."""
        for number, outcome, tickets in rows:
            yield number - 1, Outcome(outcome, tickets_moved=tickets)


class Offer(Change, frozen=True, gc=False):
    """The service offers the available tickets of an event to those who wait in line.

    ``offer_tickets`` runs in every batch that has such a change, or one of a waiting list.
    """

    event_id: Uuid


class Expire(Change, frozen=True, gc=False):
    """The sweeper expires the holds of an event that are due.

    Every batch expires the holds that are due, so this change has no statement of its own.
    """

    has_own_lane = True
    event_id: Uuid


# The order of the statements in a batch: changes that release tickets come before reservations,
# so that no reservation is refused while a ticket is being released.
KINDS_IN_ORDER: tuple[type[Change], ...] = (
    Cancel,
    Refund,
    Pay,
    Reacquire,
    Transfer,
    Extend,
    Update,
    Leave,
    Join,
    Reserve,
)
