"""The answers: rows and refusals, as JSON on the wire.

camelCase, no spaces, times in UTC with ``Z``; the order of the fields is that of the contract.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from service.refusals import Refusal
from service.rows import (
    AllocationStatus,
    Check,
    Event,
    EventChange,
    EventLedger,
    LastEvent,
    TicketAllocation,
    Uuid,
)

encode = msgspec.json.Encoder().encode


class EventAnswer(Struct, rename="camel", gc=False):
    """An event as clients see it."""

    id: Uuid
    name: str
    date: datetime
    total_tickets: int
    allocated_tickets: int
    available_tickets: int
    reserved_tickets: int
    purchased_tickets: int
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, event: Event) -> "EventAnswer":
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


class LastEventAnswer(Struct, rename="camel", gc=False):
    """What happened last, and by whom; nobody where it was the organiser or the clock."""

    type: EventChange
    actor: str | None
    timestamp: datetime

    @classmethod
    def of(cls, last: LastEvent | EventLedger) -> "LastEventAnswer":
        """Return the answer for a row of the ledger."""
        return cls(last.last_event, last.actor, last.recorded_at)


class WatchedEventAnswer(EventAnswer, rename="camel", gc=False, kw_only=True):
    """An event as its watchers see it."""

    last_event: LastEventAnswer

    @classmethod
    def of_change(cls, event: Event, last: LastEvent | EventLedger) -> "WatchedEventAnswer":
        """Return the answer for an event and what happened to it last."""
        shown = EventAnswer.of(event)
        return cls(
            *(getattr(shown, name) for name in EventAnswer.__struct_fields__),
            last_event=LastEventAnswer.of(last),
        )


class LedgerAnswer(Struct, rename="camel", gc=False):
    """A row of the ledger as clients see it."""

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
    last_event: LastEventAnswer

    @classmethod
    def of(cls, entry: EventLedger) -> "LedgerAnswer":
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
            LastEventAnswer.of(entry),
        )


class CheckAnswer(Struct, rename="camel", gc=False):
    """What one rule says of an event's books."""

    name: str
    ok: bool
    expected: int | None
    found: int | None


class AuditAnswer(Struct, rename="camel", gc=False):
    """What all rules say of an event's books."""

    ok: bool
    checks: list[CheckAnswer]

    @classmethod
    def of(cls, checks: Sequence[Check]) -> "AuditAnswer":
        """Return the answer for the checks of one event."""
        told = [
            CheckAnswer(one.rule, one.expected == one.found, one.expected, one.found)
            for one in checks
        ]
        return cls(all(check.ok for check in told), told)


class TicketAnswer(Struct, rename="camel", gc=False):
    """A ticket as clients see it; the fingerprint is for its owner alone."""

    id: Uuid
    event_id: Uuid
    reservation_id: Uuid
    status: AllocationStatus
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    user_fingerprint: str | UnsetType = UNSET

    @classmethod
    def of(cls, ticket: TicketAllocation, asked_by: str | None) -> "TicketAnswer":
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


class ReservationAnswer(Struct, rename="camel", gc=False):
    """A reservation as its owner sees it."""

    id: Uuid
    event_id: Uuid
    status: AllocationStatus | Literal["mixed"]
    expires_at: datetime | None
    tickets: list[TicketAnswer]

    @classmethod
    def of(cls, tickets: Sequence[TicketAllocation], asked_by: str) -> "ReservationAnswer":
        """Return the answer for all rows of a reservation, of which there is at least one."""
        statuses = {ticket.status for ticket in tickets}
        ends = [t.expires_at for t in tickets if t.status == "reserved" and t.expires_at]
        return cls(
            tickets[0].reservation_id,
            tickets[0].event_id,
            statuses.pop() if len(statuses) == 1 else "mixed",
            min(ends, default=None),
            [TicketAnswer.of(ticket, asked_by) for ticket in tickets],
        )


def page_answer(data: Sequence[Struct], total: int, page: int, limit: int) -> dict[str, Any]:
    """Return one page of a list and where it stands among all of them."""
    meta = {"total": total, "page": page, "limit": limit, "pages": -(-total // limit)}
    return {"data": data, "meta": meta}


def respond(answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an answer."""
    return Response(encode(answer), status, headers, "application/json")


def refuse(refusal: Refusal) -> Response:
    """Return the response for a refusal: the one place that renders any."""
    body = {"error": refusal.error, "code": refusal.code}
    if refusal.details is not None:
        body["details"] = refusal.details
    return respond(body, refusal.status, refusal.headers)
