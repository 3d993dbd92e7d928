"""The changes: each kind of request that changes an event's tickets or its waiting list.

Each kind names the statement that carries it out for a whole batch at once, says which of its
fields become the statement's parameters, and converts the rows of the statement into outcomes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, ClassVar, Self

import msgspec
from msgspec import Struct

from service.rows import TicketAllocation, Uuid
from service.write_path.outcomes import (
    LatePaymentRefusal,
    Outcome,
    OutcomeCode,
    ReservationRefusal,
)

Row = tuple[Any, ...]


class Change(Struct, frozen=True, gc=False):
    """A request to change tickets or a waiting list."""

    # The statement of ``sql/`` that carries it out.
    statement: ClassVar[str]
    # The parameters of the statement, each an array with one element for each change, and the
    # fields that they are made of.
    arrays: ClassVar[Mapping[str, str]] = {}
    # How many columns the statement returns between the outcome and the ticket; see ``outcome``.
    detail_columns: ClassVar[int] = 0
    # The status that it gives to tickets, which is also their label in the metrics; '' for none.
    new_status: ClassVar[str] = ""
    # Whether a batch may contain several changes of this kind for the same ticket.
    may_share_ticket: ClassVar[bool] = True
    # Whether it can make tickets available.
    releases_tickets: ClassVar[bool] = False
    # Whether its batch offers the available tickets of its event to those who wait in line.
    offers_tickets: ClassVar[bool] = False
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
        return {name: list(map(attrgetter(field), changes)) for name, field in cls.arrays.items()}

    @classmethod
    def read_outcomes(cls, rows: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Read the rows that a statement returned for its changes.

        Each row has the number of the change (from 1), the outcome, the detail columns, and the
        columns of a ticket, which are null, or missing, if there is no ticket. A change of several
        tickets has one row for each of them.

        Args:
            rows: the rows, in the order of their changes.

        Yields:
            The index of a change among the changes of its kind, and its outcome.
        """
        first = 2 + cls.detail_columns  # the first column of the ticket
        for number, group in groupby(rows, key=itemgetter(0)):
            rows_of_change = list(group)
            _, code, *details = rows_of_change[0][:first]
            tickets = tuple(
                TicketAllocation(*ticket)
                for row in rows_of_change
                if (ticket := row[first:]) and ticket[0]
            )
            yield number - 1, cls.outcome(code, details, tickets)

    @classmethod
    def outcome(
        cls, code: OutcomeCode, details: Sequence[Any], tickets: tuple[TicketAllocation, ...]
    ) -> Outcome:
        """Return the outcome of one change.

        Args:
            code: what was decided.
            details: the detail columns: none; or ``detail``; or ``detail`` and ``tickets_moved``.
            tickets: the tickets.
        """
        return Outcome(
            code,
            tickets,
            details[0] if details else None,
            (details[1] or 0) if len(details) > 1 else len(tickets),
        )


class ChangeByOwner(Change, frozen=True, gc=False, kw_only=True):
    """A change of a ticket, or of a reservation's tickets, that only their owner may make."""

    arrays = {
        "ticket_ids": "ticket_id",
        "reservation_ids": "reservation_id",
        "user_fingerprints": "user_fingerprint",
    }
    detail_columns = 2  # deciding_ticket_id and tickets_moved
    user_fingerprint: str
    # One of these two is set. It determines the event, which never changes.
    ticket_id: Uuid | None = None
    reservation_id: Uuid | None = None
    max_tickets: int = 1  # for a reservation, the most tickets that one may have


class Cancel(ChangeByOwner, frozen=True, gc=False):
    """The owner cancels holds."""

    statement = "cancel_tickets"
    new_status = "user_cancelled"
    releases_tickets = True


class Refund(Change, frozen=True, gc=False, kw_only=True):
    """The organizer refunds a purchase, or all purchases of a reservation."""

    statement = "refund_tickets"
    arrays = {
        "ticket_ids": "ticket_id",
        "reservation_ids": "reservation_id",
        "resale": "resale",
    }
    detail_columns = 2  # allocated_tickets and tickets_moved
    new_status = "refunded"
    releases_tickets = True
    # One of these two is set. It determines the event, which never changes.
    ticket_id: Uuid | None = None
    reservation_id: Uuid | None = None
    # Whether the tickets become available again; if not, the event's total shrinks by them.
    resale: bool = True
    max_tickets: int = 1  # for a reservation, the most tickets that one may have


class Pay(ChangeByOwner, frozen=True, gc=False):
    """The owner pays for holds."""

    statement = "pay_tickets"
    new_status = "purchased"


class Reacquire(ChangeByOwner, frozen=True, gc=False):
    """The owner pays for tickets although their holds may have expired."""

    statement = "reacquire_tickets"
    detail_columns = 6  # deciding_ticket_id to person
    new_status = "purchased"
    may_share_ticket = False

    @classmethod
    def outcome(
        cls, code: OutcomeCode, details: Sequence[Any], tickets: tuple[TicketAllocation, ...]
    ) -> Outcome:
        """Return the outcome of one late payment."""
        deciding_ticket_id, moved, reacquired, available, waiting, person = details
        refusal = LatePaymentRefusal(deciding_ticket_id, available, waiting, person)
        return Outcome(code, tickets, refusal, moved or 0, reacquired or 0)


class Transfer(Change, frozen=True, gc=False, kw_only=True):
    """The owner gives a ticket to a new owner."""

    statement = "transfer_tickets"
    arrays = {
        "ticket_ids": "ticket_id",
        "user_fingerprints": "user_fingerprint",
        "new_user_fingerprints": "new_user_fingerprint",
    }
    detail_columns = 1  # person
    may_share_ticket = False
    ticket_id: Uuid
    user_fingerprint: str
    new_user_fingerprint: str


class Extend(ChangeByOwner, frozen=True, gc=False):
    """The owner extends the holds of a reservation."""

    statement = "extend_reservations"
    arrays = {"reservation_ids": "reservation_id", "user_fingerprints": "user_fingerprint"}


class Update(Change, frozen=True, gc=False):
    """The organizer changes an event, or the terms of its sale."""

    statement = "update_event"
    releases_tickets = True  # with a larger total, or an earlier opening
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
    arrays = {
        "event_ids": "event_id",
        "quantities": "quantity",
        "user_fingerprints": "user_fingerprint",
        "idempotency_keys": "idempotency_key",
    }
    detail_columns = 5  # those of ReservationRefusal
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
    def outcome(
        cls, code: OutcomeCode, details: Sequence[Any], tickets: tuple[TicketAllocation, ...]
    ) -> Outcome:
        """Return the outcome of one reservation."""
        if code in ("granted", "replayed"):
            return Outcome(code, tickets, tickets_moved=len(tickets))
        return Outcome(code, detail=ReservationRefusal(*details))


class Join(Change, frozen=True, gc=False):
    """Somebody joins the waiting list of an event."""

    statement = "join_waiting_list"
    arrays = {
        "event_ids": "event_id",
        "quantities": "quantity",
        "user_fingerprints": "user_fingerprint",
    }
    detail_columns = 6  # entry_id and those of ReservationRefusal
    may_share_ticket = False
    offers_tickets = True
    event_id: Uuid
    quantity: int
    user_fingerprint: str

    @property
    def tickets_needed(self) -> int:
        """How many available tickets it needs for an offer at once."""
        return self.quantity

    @classmethod
    def outcome(
        cls, code: OutcomeCode, details: Sequence[Any], _: tuple[TicketAllocation, ...]
    ) -> Outcome:
        """Return the outcome of one request to join."""
        entry_id, *refusal = details
        return Outcome(code, detail=entry_id or ReservationRefusal(*refusal))


class Leave(Change, frozen=True, gc=False):
    """Somebody leaves the waiting list of an event; an open offer is cancelled."""

    statement = "leave_waiting_list"
    arrays = {
        "event_ids": "event_id",
        "entry_ids": "entry_id",
        "user_fingerprints": "user_fingerprint",
    }
    detail_columns = 1  # tickets_moved
    new_status = "user_cancelled"
    releases_tickets = True
    offers_tickets = True
    event_id: Uuid
    entry_id: Uuid
    user_fingerprint: str

    @classmethod
    def outcome(
        cls, code: OutcomeCode, details: Sequence[Any], _: tuple[TicketAllocation, ...]
    ) -> Outcome:
        """Return the outcome of one request to leave."""
        return Outcome(code, tickets_moved=details[0])


class Offer(Change, frozen=True, gc=False):
    """The service offers the available tickets of an event to those who wait in line.

    Its statement runs in every batch with a change that ``offers_tickets``. Its rows are about the
    entries that got an offer, and not about changes.
    """

    statement = "offer_tickets"
    arrays = {"event_ids": "event_id"}
    offers_tickets = True
    event_id: Uuid

    @classmethod
    def read_outcomes(cls, _: Iterable[Row]) -> Iterator[tuple[int, Outcome]]:
        """Return nothing: an offer that was carried out is granted, also if nobody got tickets."""
        return iter(())


class Expire(Change, frozen=True, gc=False):
    """The sweeper expires the holds of an event that are due.

    Every batch expires the holds that are due, so this change has no statement of its own.
    """

    has_own_lane = True
    event_id: Uuid


# The order of the statements in a batch: changes that release tickets come before reservations,
# so that no reservation is refused while a ticket is being released; and those who wait in line
# before those who do not.
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
    Offer,
    Reserve,
)
