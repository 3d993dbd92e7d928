"""The rows of the tables and statements as Python types, column for column.

``tests/operations/test_rows.py`` compares them with the database's catalog: names, order, types,
nullability.
"""

from datetime import datetime
from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct
from msgspec.structs import replace

# A UUID in its canonical text form: ids are only compared and passed on, so text is enough.
Uuid = NewType("Uuid", str)
# A Uuid in the body of a request or a response: OpenAPI describes its format.
Id = Annotated[Uuid, Meta(extra_json_schema={"format": "uuid"})]

AllocationStatus = Literal["reserved", "purchased", "expired", "user_cancelled", "refunded"]
SaleStatus = Literal["upcoming", "open", "closed"]
EventChange = Literal[
    "created",
    "updated",
    "resized",
    "reserved",
    "purchased",
    "expired",
    "user_cancelled",
    "refunded",
    "joined",
    "left",
    "offered",
]
EntryState = Literal["waiting", "offered", "fulfilled", "lapsed", "left"]


class LastEvent(Struct, frozen=True, gc=False):
    """The columns of ``event_ledger`` that describe an event's last change."""

    last_event: EventChange
    actor: str | None
    recorded_at: datetime


class Check(Struct, frozen=True, gc=False):
    """The result of one of the audit's checks, for one event."""

    event_id: Uuid
    name: str  # of the event
    rule: str
    expected: int | None
    found: int | None


class EventRow(Struct, frozen=True, gc=False):
    """A row of ``events``.

    If a term of sale is None, there is no such limit, or the service's setting applies.
    """

    id: Uuid
    name: str
    date: datetime
    total_tickets: int
    allocated_tickets: int
    created_at: datetime
    updated_at: datetime
    purchased_tickets: int
    version: int
    sale_opens_at: datetime | None
    sale_closes_at: datetime | None
    hold_seconds: int | None
    max_hold_seconds: int | None
    max_tickets_per_person: int | None
    revision: int
    waiting_tickets: int  # how many tickets those who wait in line want


class Event(EventRow, frozen=True, gc=False):
    """An event as statements return it: expired holds are left out of ``allocated_tickets``."""

    # By the database's clock.
    sale_status: SaleStatus

    def as_of(self, entry: "EventLedger") -> "Event":
        """Return this event with the counts, version and time of a row of its ledger.

        The ledger has no other values: name, date and terms of sale stay the current ones.
        """
        return replace(
            self,
            total_tickets=entry.total_tickets,
            allocated_tickets=entry.allocated_tickets,
            purchased_tickets=entry.purchased_tickets,
            waiting_tickets=entry.waiting_tickets,
            version=entry.version,
            updated_at=entry.recorded_at,
        )


class TicketAllocation(Struct, frozen=True, gc=False):
    """A row of ``ticket_allocations``: one ticket that was reserved."""

    id: Uuid
    event_id: Uuid
    user_fingerprint: str
    status: AllocationStatus
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    reservation_id: Uuid
    position: int


class EventPrivate(Struct, frozen=True, gc=False):
    """A row of ``event_private``.

    Two things are derived from the secret: the ledger's actors, and the id of a reservation that
    was made with an idempotency key.
    """

    event_id: Uuid
    secret: Uuid


class EventLedger(Struct, frozen=True, gc=False):
    """A row of ``event_ledger``: one version of one event."""

    event_id: Uuid
    version: int
    recorded_at: datetime
    # The event's counts in this version.
    total_tickets: int
    allocated_tickets: int
    purchased_tickets: int
    # How many tickets changed to this status since the version before.
    reserved: int
    purchased: int
    expired: int
    cancelled: int
    refunded: int
    last_event: EventChange
    actor: str | None
    waiting_tickets: int  # also one of the event's counts


class WaitingEntryRow(Struct, frozen=True, gc=False):
    """A row of ``waiting_entries``: somebody who waits, or waited, for tickets of an event."""

    id: Uuid
    event_id: Uuid
    position: int
    user_fingerprint: str
    quantity: int
    reservation_id: Uuid | None
    left_at: datetime | None
    unservable_at: datetime | None
    created_at: datetime
    updated_at: datetime


class WaitingEntry(Struct, frozen=True, gc=False):
    """An entry of a waiting list as statements return it, with what has become of it."""

    id: Uuid
    event_id: Uuid
    user_fingerprint: str
    quantity: int
    reservation_id: Uuid | None
    created_at: datetime
    updated_at: datetime
    state: EntryState
    # How many wait before it, and how many tickets they want; None unless it waits.
    entries_ahead: int | None
    tickets_ahead: int | None
    # Of an open offer, when the first of its holds ends.
    offer_expires_at: datetime | None
