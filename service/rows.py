"""The rows: what the tables hold, in Python's types, column for column.

``tests/operations/test_rows.py`` holds them to the database's catalog: names, order, types,
nullability.
"""

from datetime import datetime
from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct
from msgspec.structs import replace

Uuid = NewType("Uuid", str)
"""A UUID in its canonical text: what is looked up and shown is never calculated with."""
Id = Annotated[Uuid, Meta(extra_json_schema={"format": "uuid"})]
"""The same, where a client is told that it is one."""

AllocationStatus = Literal["reserved", "purchased", "expired", "user_cancelled", "refunded"]
EventChange = Literal[
    "created",
    "updated",
    "resized",
    "reserved",
    "purchased",
    "expired",
    "user_cancelled",
    "refunded",
]


class LastEvent(Struct, frozen=True, gc=False):
    """The columns of ``event_ledger`` that tell what happened last."""

    last_event: EventChange
    actor: str | None
    recorded_at: datetime


class Check(Struct, frozen=True, gc=False):
    """A rule of the books, and what it says of an event."""

    event_id: Uuid
    name: str
    rule: str
    expected: int | None
    found: int | None


class Event(Struct, frozen=True, gc=False):
    """A row of ``events``. The reads give the counts as they are worth now, lapsed holds off."""

    id: Uuid
    name: str
    date: datetime
    total_tickets: int
    allocated_tickets: int
    created_at: datetime
    updated_at: datetime
    purchased_tickets: int
    version: int

    def as_of(self, entry: "EventLedger") -> "Event":
        """Return the event with the counts that a row of its ledger tells; the rest as now."""
        return replace(
            self,
            total_tickets=entry.total_tickets,
            allocated_tickets=entry.allocated_tickets,
            purchased_tickets=entry.purchased_tickets,
            version=entry.version,
            updated_at=entry.recorded_at,
        )


class TicketAllocation(Struct, frozen=True, gc=False):
    """A row of ``ticket_allocations``: one ticket that was handed out."""

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
    """A row of ``event_private``: an event's secret."""

    event_id: Uuid
    secret: Uuid


class EventLedger(Struct, frozen=True, gc=False):
    """A row of ``event_ledger``: one version of one event."""

    event_id: Uuid
    version: int
    recorded_at: datetime
    total_tickets: int
    allocated_tickets: int
    purchased_tickets: int
    reserved: int
    purchased: int
    expired: int
    cancelled: int
    refunded: int
    last_event: EventChange
    actor: str | None
