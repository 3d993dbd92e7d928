"""Examples for the OpenAPI description, built from rows in the same way as real responses."""

from datetime import UTC, datetime
from typing import Any

from service.rows import Check, Event, EventLedger, TicketAllocation, Uuid, WaitingEntry
from service.web.responses import (
    AuditResponse,
    DatabaseHealth,
    EntryPage,
    EntryPageMeta,
    EntryResponse,
    EventPage,
    EventResponse,
    FingerprintResponse,
    HealthResponse,
    LedgerEntryResponse,
    LedgerMeta,
    LedgerPage,
    LiveResponse,
    MigrationsHealth,
    PageMeta,
    ReservationResponse,
    TicketPage,
    TicketPageMeta,
    TicketResponse,
    WatchedEventResponse,
    encode,
)

_EVENT_ID = Uuid("01a20215-b4e0-7fbd-9e48-55cf6e62953a")
_OWNER = "alice"
_CREATED_AT = datetime(2029, 11, 22, 19, 0, tzinfo=UTC)
_RESERVED_AT = datetime(2029, 11, 22, 19, 30, tzinfo=UTC)
_EXPIRES_AT = datetime(2029, 11, 22, 19, 45, tzinfo=UTC)

_EVENT = Event(
    _EVENT_ID,
    "Opening night",
    datetime(2030, 1, 1, 20, 0, tzinfo=UTC),
    total_tickets=100,
    allocated_tickets=1,
    created_at=_CREATED_AT,
    updated_at=_RESERVED_AT,
    purchased_tickets=0,
    version=2,
    sale_opens_at=datetime(2029, 11, 22, 19, 30, tzinfo=UTC),
    sale_closes_at=None,
    hold_seconds=None,
    max_hold_seconds=None,
    max_tickets_per_person=4,
    revision=1,
    waiting_tickets=0,
    sale_status="open",
)
_TICKET = TicketAllocation(
    Uuid("01a20215-b4f6-76a2-94fd-e3bce2dcb5c5"),
    _EVENT_ID,
    _OWNER,
    "reserved",
    expires_at=_EXPIRES_AT,
    created_at=_RESERVED_AT,
    updated_at=_RESERVED_AT,
    reservation_id=Uuid("01a20215-b4f6-7ca6-93d0-526884be7f54"),
    position=1,
)
_ENTRY = EventLedger(
    _EVENT_ID,
    version=2,
    recorded_at=_RESERVED_AT,
    total_tickets=100,
    allocated_tickets=1,
    purchased_tickets=0,
    reserved=1,
    purchased=0,
    expired=0,
    cancelled=0,
    refunded=0,
    last_event="reserved",
    actor="3f9a1c07be",
    waiting_tickets=0,
)
_CHECK = Check(_EVENT_ID, "Opening night", "allocated = its tickets", 1, 1)
_WAITING = WaitingEntry(
    Uuid("01a20215-b4f7-7d11-8a51-3c6e0f7a9b20"),
    _EVENT_ID,
    _OWNER,
    quantity=2,
    reservation_id=None,
    created_at=_RESERVED_AT,
    updated_at=_RESERVED_AT,
    state="waiting",
    entries_ahead=3,
    tickets_ahead=7,
    offer_expires_at=None,
)
_META = PageMeta.of(total=1, page=1, limit=10)

# An example of each response, by its type.
EXAMPLES: dict[Any, Any] = {
    EventResponse: EventResponse.of(_EVENT),
    EventPage: EventPage([EventResponse.of(_EVENT)], _META),
    list[TicketResponse]: [TicketResponse.of(_TICKET, _OWNER)],
    TicketResponse: TicketResponse.of(_TICKET, _OWNER),
    TicketPage: TicketPage(
        [TicketResponse.of(_TICKET, None)],
        TicketPageMeta(total=3, page=1, limit=1, pages=3, next=_TICKET.id),
    ),
    ReservationResponse: ReservationResponse.of([_TICKET], _OWNER),
    LedgerPage: LedgerPage(
        [LedgerEntryResponse.of(_ENTRY)], LedgerMeta(after=1, limit=100, next=None)
    ),
    AuditResponse: AuditResponse.of([_CHECK]),
    FingerprintResponse: FingerprintResponse("xWCBqDMtcoS8lCVHmIWWLRmVgdFdcqsj5e1xOQtO7zM"),
    HealthResponse: HealthResponse(
        "ok", DatabaseHealth("ok", "18.4"), MigrationsHealth("ok", [], [])
    ),
    EntryResponse: EntryResponse.of(_WAITING, _OWNER),
    EntryPage: EntryPage([EntryResponse.of(_WAITING, None)], EntryPageMeta(10, None)),
    LiveResponse: LiveResponse("ok"),
    # A message of a stream.
    WatchedEventResponse: {
        "id": str(_EVENT.version),
        "data": encode(WatchedEventResponse.of_change(_EVENT, _ENTRY)).decode(),
    },
}
