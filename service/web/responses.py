"""The answers: rows and refusals, as JSON on the wire.

camelCase, no spaces, times in UTC with ``Z``; the order of the fields is that of the contract.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from service.refusals import Refusal
from service.rows import (
    AllocationStatus,
    Check,
    Event,
    EventChange,
    EventLedger,
    Id,
    LastEvent,
    TicketAllocation,
)

encode = msgspec.json.Encoder().encode

Moment = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0)]


class EventResponse(Struct, rename="camel", gc=False):
    """An event as clients see it."""

    id: Id
    name: str
    date: Moment
    total_tickets: Count
    allocated_tickets: Count
    available_tickets: Count
    reserved_tickets: Count
    purchased_tickets: Count
    version: Count
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, event: Event) -> "EventResponse":
        """Return the answer for a row; what is available or reserved is computed, never stored."""
        return cls(
            event.id,
            event.name,
            event.date,
            event.total_tickets,
            event.allocated_tickets,
            event.total_tickets - event.allocated_tickets,
            event.allocated_tickets - event.purchased_tickets,
            event.purchased_tickets,
            event.version,
            event.created_at,
            event.updated_at,
        )

    @property
    def etag(self) -> str:
        """What changes whenever the answer does: with a version, a lapse, a change by hand."""
        touched = int(self.updated_at.timestamp() * 1_000_000)
        return f'"{self.version}-{self.available_tickets}-{touched:x}"'


class LastEventResponse(Struct, rename="camel", gc=False):
    """What happened last, and by whom; nobody where it was the organiser or the clock."""

    type: EventChange
    actor: str | None
    timestamp: Moment

    @classmethod
    def of(cls, last: LastEvent | EventLedger) -> "LastEventResponse":
        """Return the answer for a row of the ledger."""
        return cls(last.last_event, last.actor, last.recorded_at)


class WatchedEventResponse(EventResponse, rename="camel", gc=False, kw_only=True):
    """An event as its watchers see it."""

    last_event: LastEventResponse

    @classmethod
    def of_change(cls, event: Event, last: LastEvent | EventLedger) -> "WatchedEventResponse":
        """Return the answer for an event and what happened to it last."""
        shown = EventResponse.of(event)
        return cls(
            *(getattr(shown, name) for name in EventResponse.__struct_fields__),
            last_event=LastEventResponse.of(last),
        )


class LedgerEntryResponse(Struct, rename="camel", gc=False):
    """A row of the ledger as clients see it."""

    version: Count
    recorded_at: Moment
    total_tickets: Count
    allocated_tickets: Count
    purchased_tickets: Count
    reserved: Count
    purchased: Count
    expired: Count
    cancelled: Count
    refunded: Count
    last_event: LastEventResponse

    @classmethod
    def of(cls, entry: EventLedger) -> "LedgerEntryResponse":
        """Return the answer for a row."""
        return cls(
            entry.version,
            entry.recorded_at,
            entry.total_tickets,
            entry.allocated_tickets,
            entry.purchased_tickets,
            entry.reserved,
            entry.purchased,
            entry.expired,
            entry.cancelled,
            entry.refunded,
            LastEventResponse.of(entry),
        )


class CheckResponse(Struct, rename="camel", gc=False):
    """What one rule says of an event's books."""

    name: str
    ok: bool
    expected: int | None
    found: int | None


class AuditResponse(Struct, rename="camel", gc=False):
    """What all rules say of an event's books."""

    ok: bool
    checks: list[CheckResponse]

    @classmethod
    def of(cls, checks: Sequence[Check]) -> "AuditResponse":
        """Return the answer for the checks of one event."""
        told = [
            CheckResponse(one.rule, one.expected == one.found, one.expected, one.found)
            for one in checks
        ]
        return cls(all(check.ok for check in told), told)


class TicketResponse(Struct, rename="camel", gc=False):
    """A ticket as clients see it; the fingerprint is for its owner alone."""

    id: Id
    event_id: Id
    reservation_id: Id
    status: AllocationStatus
    expires_at: Moment | None
    created_at: Moment
    updated_at: Moment
    user_fingerprint: str | UnsetType = UNSET

    @classmethod
    def of(cls, ticket: TicketAllocation, asked_by: str | None) -> "TicketResponse":
        """Return the answer for a row, to whoever holds a fingerprint; None: to anybody."""
        return cls(
            ticket.id,
            ticket.event_id,
            ticket.reservation_id,
            ticket.status,
            ticket.expires_at,
            ticket.created_at,
            ticket.updated_at,
            ticket.user_fingerprint if ticket.user_fingerprint == asked_by else UNSET,
        )


class ReservationResponse(Struct, rename="camel", gc=False):
    """A reservation as its owner sees it."""

    id: Id
    event_id: Id
    status: Literal[AllocationStatus, "mixed"]
    expires_at: Moment | None
    tickets: list[TicketResponse]

    @classmethod
    def of(cls, tickets: Sequence[TicketAllocation], asked_by: str) -> "ReservationResponse":
        """Return the answer for all rows of a reservation, of which there is at least one."""
        statuses = {ticket.status for ticket in tickets}
        ends = [t.expires_at for t in tickets if t.status == "reserved" and t.expires_at]
        return cls(
            tickets[0].reservation_id,
            tickets[0].event_id,
            statuses.pop() if len(statuses) == 1 else "mixed",
            min(ends, default=None),
            [TicketResponse.of(ticket, asked_by) for ticket in tickets],
        )


class PageMeta(Struct, gc=False):
    """Where a page stands among all of them."""

    total: Count
    page: Count
    limit: Count
    pages: Count

    @classmethod
    def of(cls, total: int, page: int, limit: int) -> "PageMeta":
        """Return it for a page of so many at the most."""
        return cls(total, page, limit, -(-total // limit))


class EventPage(Struct, gc=False):
    """A page of events."""

    data: list[EventResponse]
    meta: PageMeta


class TicketPage(Struct, gc=False):
    """A page of tickets."""

    data: list[TicketResponse]
    meta: PageMeta


class LedgerMeta(Struct, gc=False):
    """Where a part of a ledger stands; next is what to send as after for the rest."""

    after: Count
    limit: Count
    next: Count | None


class LedgerPage(Struct, gc=False):
    """A part of a ledger."""

    data: list[LedgerEntryResponse]
    meta: LedgerMeta


class FingerprintResponse(Struct, rename="camel", gc=False):
    """A fingerprint that nobody guesses."""

    user_fingerprint: str


class LiveResponse(Struct, gc=False):
    """That the process answers."""

    status: Literal["ok"]


class DatabaseHealth(Struct, gc=False):
    """Whether the database answers."""

    status: Literal["ok", "unreachable"]
    version: str | UnsetType = UNSET


class MigrationsHealth(Struct, gc=False):
    """Whether the database has all migrations."""

    status: Literal["ok", "pending", "unreachable"]
    pending: list[str] | UnsetType = UNSET


class HealthResponse(Struct, gc=False):
    """Whether the service can do its work, and what is wrong."""

    status: Literal["ok", "unavailable"]
    database: DatabaseHealth
    migrations: MigrationsHealth


def respond(answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an answer."""
    return Response(encode(answer), status, headers, "application/json")


def refuse(refusal: Refusal) -> Response:
    """Return the response for a refusal: the one place that renders any."""
    body: dict[str, Any] = {"error": refusal.error, "code": refusal.code}
    if refusal.details is not None:
        body["details"] = refusal.details
    return respond(body, refusal.status, refusal.headers)
