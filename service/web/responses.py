"""Responses: rows and refusals as JSON.

Names are in camelCase, times in UTC with ``Z``. The order of the fields is part of the contract.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from service import limits
from service.refusals import Refusal
from service.rows import (
    AllocationStatus,
    Check,
    EntryState,
    Event,
    EventChange,
    EventLedger,
    Id,
    LastEvent,
    SaleStatus,
    TicketAllocation,
    WaitingEntry,
)

encode = msgspec.json.Encoder().encode

Timestamp = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0)]
HoldLength = Annotated[int, Meta(ge=1, le=limits.LONGEST_HOLD_SECONDS)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ETAG = re.compile(r'"(\d{1,18})-(\d{1,10})-([0-9a-f]{1,16})-(upcoming|open|closed)"', re.ASCII)


class EventResponse(Struct, rename="camel", gc=False):
    """An event."""

    id: Id
    name: str
    date: Timestamp
    total_tickets: Count
    allocated_tickets: Count
    available_tickets: Count
    reserved_tickets: Count
    purchased_tickets: Count
    waiting_tickets: Count
    version: Count
    revision: Annotated[int, Meta(ge=1)]
    sale_status: SaleStatus
    sale_opens_at: Timestamp | None
    sale_closes_at: Timestamp | None
    hold_seconds: HoldLength | None
    max_hold_seconds: HoldLength | None
    max_tickets_per_person: Annotated[int, Meta(ge=1)] | None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, event: Event) -> "EventResponse":
        """Return an event; its available and reserved tickets are computed, not stored."""
        return cls(
            event.id,
            event.name,
            event.date,
            event.total_tickets,
            event.allocated_tickets,
            event.total_tickets - event.allocated_tickets,
            event.allocated_tickets - event.purchased_tickets,
            event.purchased_tickets,
            event.waiting_tickets,
            event.version,
            event.revision,
            event.sale_status,
            event.sale_opens_at,
            event.sale_closes_at,
            event.hold_seconds,
            event.max_hold_seconds,
            event.max_tickets_per_person,
            event.created_at,
            event.updated_at,
        )

    @property
    def etag(self) -> str:
        """The ETag of the event's state."""
        return EventState(
            self.version, self.available_tickets, self.updated_at, self.sale_status
        ).etag


class EventState(NamedTuple):
    """What an event's ETag consists of.

    It changes with each version, when a hold ends, when the sale opens or closes, and with an
    update by hand in psql.
    """

    version: int
    available_tickets: int
    updated_at: datetime
    sale_status: str

    @property
    def etag(self) -> str:
        """The ETag (RFC 9110, section 8.8.3), with the time in microseconds."""
        microseconds = (self.updated_at - _EPOCH) // timedelta(microseconds=1)
        return f'"{self.version}-{self.available_tickets}-{microseconds:x}-{self.sale_status}"'

    @classmethod
    def parse(cls, etag: str) -> "EventState | None":
        """Return the state that has this ETag; None if no event can have it."""
        match = _ETAG.fullmatch(etag)
        if match is None:
            return None
        version, available, microseconds, sale_status = match.groups()
        if int(available) > limits.MAX_INTEGER:
            return None
        try:
            updated_at = _EPOCH + timedelta(microseconds=int(microseconds, 16))
        except OverflowError:
            return None
        return cls(int(version), int(available), updated_at, sale_status)


class LastEventResponse(Struct, rename="camel", gc=False):
    """The last change to an event; the actor is null for the organizer and for expired holds."""

    type: EventChange
    actor: str | None
    timestamp: Timestamp

    @classmethod
    def of(cls, last_change: LastEvent | EventLedger) -> "LastEventResponse":
        """Return the last change that a row of the ledger records."""
        return cls(last_change.last_event, last_change.actor, last_change.recorded_at)


class WatchedEventResponse(EventResponse, rename="camel", gc=False, kw_only=True):
    """An event in a stream, with the last change to it."""

    last_event: LastEventResponse

    @classmethod
    def of_change(
        cls, event: Event, last_change: LastEvent | EventLedger
    ) -> "WatchedEventResponse":
        """Return an event with the last change to it."""
        response = EventResponse.of(event)
        return cls(
            *(getattr(response, name) for name in EventResponse.__struct_fields__),
            last_event=LastEventResponse.of(last_change),
        )


class LedgerEntryResponse(Struct, rename="camel", gc=False):
    """An entry of an event's ledger: the counts at a version, and how many tickets it changed."""

    version: Count
    recorded_at: Timestamp
    total_tickets: Count
    allocated_tickets: Count
    purchased_tickets: Count
    waiting_tickets: Count
    reserved: Count
    purchased: Count
    expired: Count
    cancelled: Count
    refunded: Count
    last_event: LastEventResponse

    @classmethod
    def of(cls, entry: EventLedger) -> "LedgerEntryResponse":
        """Return an entry."""
        return cls(
            entry.version,
            entry.recorded_at,
            entry.total_tickets,
            entry.allocated_tickets,
            entry.purchased_tickets,
            entry.waiting_tickets,
            entry.reserved,
            entry.purchased,
            entry.expired,
            entry.cancelled,
            entry.refunded,
            LastEventResponse.of(entry),
        )


class CheckResponse(Struct, rename="camel", gc=False):
    """The result of one audit rule; it is ok if expected equals found."""

    name: str
    ok: bool
    expected: int | None
    found: int | None


class AuditResponse(Struct, rename="camel", gc=False):
    """The results of all audit rules for an event."""

    ok: bool
    checks: list[CheckResponse]

    @classmethod
    def of(cls, checks: Sequence[Check]) -> "AuditResponse":
        """Return the results of an event's checks."""
        results = [
            CheckResponse(check.rule, check.expected == check.found, check.expected, check.found)
            for check in checks
        ]
        return cls(all(result.ok for result in results), results)


class TicketResponse(Struct, rename="camel", gc=False):
    """A ticket; its fingerprint is present only if the request had the same fingerprint."""

    id: Id
    event_id: Id
    reservation_id: Id
    status: AllocationStatus
    expires_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp
    user_fingerprint: str | UnsetType = UNSET

    @classmethod
    def of(cls, ticket: TicketAllocation, fingerprint: str | None) -> "TicketResponse":
        """Return a ticket for a client that sent this fingerprint, or None if it sent none."""
        return cls(
            ticket.id,
            ticket.event_id,
            ticket.reservation_id,
            ticket.status,
            ticket.expires_at,
            ticket.created_at,
            ticket.updated_at,
            ticket.user_fingerprint if ticket.user_fingerprint == fingerprint else UNSET,
        )


class ReservationResponse(Struct, rename="camel", gc=False):
    """A reservation with its tickets."""

    id: Id
    event_id: Id
    status: Literal[AllocationStatus, "mixed"]
    expires_at: Timestamp | None
    tickets: list[TicketResponse]

    @classmethod
    def of(
        cls, tickets: Sequence[TicketAllocation], fingerprint: str | None
    ) -> "ReservationResponse":
        """Return the reservation of one or more tickets, for a client with this fingerprint."""
        statuses = {ticket.status for ticket in tickets}
        expiries = [
            ticket.expires_at
            for ticket in tickets
            if ticket.status == "reserved" and ticket.expires_at
        ]
        return cls(
            tickets[0].reservation_id,
            tickets[0].event_id,
            statuses.pop() if len(statuses) == 1 else "mixed",
            min(expiries, default=None),
            [TicketResponse.of(ticket, fingerprint) for ticket in tickets],
        )


class PageMeta(Struct, gc=False):
    """The position of a page in a list."""

    total: Count
    page: Count
    limit: Count
    pages: Count

    @classmethod
    def of(cls, total: int, page: int, limit: int) -> "PageMeta":
        """Return the position of a page in a list of ``total`` items, ``limit`` on each page."""
        return cls(total, page, limit, pages=-(-total // limit))  # rounded up


class EventPage(Struct, gc=False):
    """A page of events."""

    data: list[EventResponse]
    meta: PageMeta


class TicketPageMeta(Struct, kw_only=True, gc=False):
    """The position of a page of tickets; send `next` as `after` to get the next page."""

    # `total`, `page` and `pages` are unset for a request with `after`: its tickets are not counted.
    total: Count | UnsetType = UNSET
    page: Count | UnsetType = UNSET
    limit: Count
    pages: Count | UnsetType = UNSET
    # The last ticket of the page; None at the end of the list. Unset for a request with `page`.
    next: Id | UnsetType | None = UNSET


class TicketPage(Struct, gc=False):
    """A page of tickets."""

    data: list[TicketResponse]
    meta: TicketPageMeta


class LedgerMeta(Struct, gc=False):
    """The position of a page in a ledger; send `next` as `after` to get the next page."""

    after: Count
    limit: Count
    next: Count | None


class LedgerPage(Struct, gc=False):
    """A page of a ledger."""

    data: list[LedgerEntryResponse]
    meta: LedgerMeta


class FingerprintResponse(Struct, rename="camel", gc=False):
    """A new random fingerprint."""

    user_fingerprint: str


class Ahead(Struct, gc=False):
    """Those who wait before an entry, and the tickets that they want."""

    entries: Count
    tickets: Count


class EntryResponse(Struct, rename="camel", gc=False):
    """An entry of a waiting list; only its owner sees the fingerprint."""

    id: Id
    event_id: Id
    quantity: Annotated[int, Meta(ge=1)]
    state: EntryState
    ahead: Ahead | None
    reservation_id: Id | None
    offer_expires_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp
    user_fingerprint: str | UnsetType = UNSET

    @classmethod
    def of(cls, entry: WaitingEntry, fingerprint: str | None) -> "EntryResponse":
        """Return an entry for a caller who sends a fingerprint, or none."""
        ahead = None
        if entry.entries_ahead is not None and entry.tickets_ahead is not None:
            ahead = Ahead(entry.entries_ahead, entry.tickets_ahead)
        return cls(
            entry.id,
            entry.event_id,
            entry.quantity,
            entry.state,
            ahead,
            entry.reservation_id,
            entry.offer_expires_at,
            entry.created_at,
            entry.updated_at,
            UNSET if fingerprint != entry.user_fingerprint else fingerprint,
        )


class EntryPageMeta(Struct, gc=False):
    """The limit of a page of entries, and the cursor of the next one."""

    limit: Count
    next: Id | None


class EntryPage(Struct, gc=False):
    """A page of an event's waiting list, in the order of the line."""

    data: list[EntryResponse]
    meta: EntryPageMeta


class LiveResponse(Struct, gc=False):
    """The process is running."""

    status: Literal["ok"]


class DatabaseHealth(Struct, gc=False):
    """Whether the database can be reached, and its version."""

    status: Literal["ok", "unreachable"]
    version: str | UnsetType = UNSET


class MigrationsHealth(Struct, gc=False):
    """Whether the database has exactly the migrations of this version.

    Those that it lacks are pending. Those that this version does not know are ahead.
    """

    status: Literal["ok", "pending", "ahead", "unreachable"]
    pending: list[str] | UnsetType = UNSET
    ahead: list[str] | UnsetType = UNSET


class HealthResponse(Struct, gc=False):
    """Whether the service is ready for requests, and if not, why."""

    status: Literal["ok", "unavailable"]
    database: DatabaseHealth
    migrations: MigrationsHealth


def respond(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a JSON body."""
    return Response(encode(body), status, headers, "application/json")


def refuse(refusal: Refusal) -> Response:
    """Return the response for a refusal."""
    body: dict[str, Any] = {"error": refusal.error, "code": refusal.code}
    if refusal.details is not None:
        body["details"] = refusal.details
    return respond(body, refusal.status, refusal.headers)


def matches_etag(if_none_match: str, etag: str) -> bool:
    """Return whether If-None-Match lists an ETag; the comparison is weak (RFC 9110)."""
    etags = {tag.strip() for tag in if_none_match.split(",")}
    return "*" in etags or etag in etags or f"W/{etag}" in etags
