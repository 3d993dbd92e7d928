"""Routes: every path and method, with the request, the successes and the refusals of each.

The application, the OpenAPI description and the tests are all built from this table.
"""

from service import metrics
from service.refusals import (
    BUSY,
    CANNOT_CANCEL,
    CANNOT_CANCEL_RESERVATION,
    CANNOT_EXTEND_RESERVATION,
    CANNOT_FIND_RESERVATION,
    CANNOT_JOIN,
    CANNOT_LEAVE,
    CANNOT_REACQUIRE,
    CANNOT_REACQUIRE_RESERVATION,
    CANNOT_REFUND,
    CANNOT_REFUND_RESERVATION,
    CANNOT_RESERVE,
    CANNOT_TRANSFER,
    CANNOT_UPDATE,
    ENTRY_NOT_FOUND,
    EVENT_EXISTS,
    EVENT_NOT_FOUND,
    TICKET_NOT_FOUND,
    WRITE_REFUSALS,
    WRONG_FINGERPRINT,
)
from service.web.endpoints import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LAST_EVENT_ID,
    OPTIONAL_OWNER,
    OWNER,
    Endpoint,
    Success,
)
from service.web.handlers import (
    docs,
    events,
    fingerprints,
    health,
    ledger,
    reservations,
    tickets,
    waiting,
)
from service.web.responses import (
    AuditResponse,
    EntryPage,
    EntryResponse,
    EventPage,
    EventResponse,
    FingerprintResponse,
    HealthResponse,
    LedgerPage,
    LiveResponse,
    ReservationResponse,
    TicketPage,
    TicketResponse,
    WatchedEventResponse,
)
from service.web.watching import EventStream

HTML_PAGE = Success(200, str, ["Content-Security-Policy", "ETag"], "text/html; charset=utf-8")

# Every route, by path and method. HEAD is supported wherever GET is, except for streams.
# Paths are matched in this order, so those with the most traffic come first.
ROUTES: dict[str, dict[str, Endpoint]] = {
    "/events/{eventId}/tickets": {
        "GET": Endpoint(
            tickets.list_event_tickets,
            cache_control="no-store",
            query=tickets.EVENT_LIST_QUERY,
            for_organizer=True,
            successes=[Success(200, TicketPage)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
        "POST": Endpoint(
            tickets.reserve_tickets,
            cache_control="no-store",
            body=tickets.reservation_fields,
            headers=[IDEMPOTENCY_KEY],
            successes=[Success(201, list[TicketResponse], ["Location", "Idempotency-Replayed"])],
            refusals=[*CANNOT_RESERVE.values(), *WRITE_REFUSALS],
        ),
    },
    "/events": {
        "GET": Endpoint(
            events.list_events,
            cache_control="no-cache",
            query=events.LIST_QUERY,
            successes=[Success(200, EventPage)],
            refusals=[BUSY],
        ),
        "POST": Endpoint(
            events.create_event,
            cache_control="no-store",
            body=events.EVENT_FIELDS,
            for_organizer=True,
            successes=[Success(201, EventResponse, ["ETag", "Location"])],
            refusals=[EVENT_EXISTS, *WRITE_REFUSALS],
        ),
    },
    "/events/{eventId}": {
        "GET": Endpoint(
            events.find_event,
            cache_control="no-cache",
            query=events.FIND_QUERY,
            headers=[IF_NONE_MATCH],
            successes=[Success(200, EventResponse, ["ETag"]), Success(304, headers=["ETag"])],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
        "PATCH": Endpoint(
            events.update_event,
            cache_control="no-store",
            body=events.UPDATE_FIELDS,
            partial=True,
            headers=[IF_MATCH],
            for_organizer=True,
            successes=[Success(200, EventResponse, ["ETag"])],
            refusals=[*CANNOT_UPDATE.values(), *WRITE_REFUSALS],
        ),
    },
    "/events/{eventId}/stream": {
        "GET": Endpoint(
            ledger.stream_event,
            cache_control="no-store",
            query=ledger.STREAM_QUERY,
            headers=[LAST_EVENT_ID],
            streams=True,
            successes=[
                Success(200, WatchedEventResponse, media_type=EventStream.media_type),
            ],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
    },
    "/events/{eventId}/ledger": {
        "GET": Endpoint(
            ledger.list_ledger,
            cache_control="no-cache",
            query=ledger.LIST_QUERY,
            successes=[Success(200, LedgerPage)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
    },
    "/events/{eventId}/audit": {
        "GET": Endpoint(
            ledger.check_event,
            cache_control="no-cache",
            successes=[Success(200, AuditResponse)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
    },
    "/events/tickets/{ticketId}": {
        "GET": Endpoint(
            tickets.find_ticket,
            cache_control="no-cache",
            headers=[OPTIONAL_OWNER],
            successes=[Success(200, TicketResponse)],
            refusals=[BUSY, TICKET_NOT_FOUND],
        ),
    },
    "/events/tickets/{ticketId}/payment": {
        "POST": Endpoint(
            tickets.pay_ticket,
            cache_control="no-store",
            body=tickets.PAYMENT_FIELDS,
            successes=[Success(200, TicketResponse)],
            refusals=[*CANNOT_REACQUIRE.values(), *WRITE_REFUSALS],
        ),
        "DELETE": Endpoint(
            tickets.cancel_ticket,
            cache_control="no-store",
            headers=[OWNER],
            successes=[Success(200, TicketResponse)],
            refusals=[*CANNOT_CANCEL.values(), *WRITE_REFUSALS],
        ),
    },
    "/events/tickets/{ticketId}/transfer": {
        "POST": Endpoint(
            tickets.transfer_ticket,
            cache_control="no-store",
            body=tickets.TRANSFER_FIELDS,
            successes=[Success(200, TicketResponse)],
            refusals=[*CANNOT_TRANSFER.values(), *WRITE_REFUSALS],
        ),
    },
    "/events/tickets/{ticketId}/refund": {
        "POST": Endpoint(
            tickets.refund_ticket,
            cache_control="no-store",
            body=tickets.REFUND_FIELDS,
            body_is_optional=True,
            for_organizer=True,
            successes=[Success(200, TicketResponse)],
            refusals=[*CANNOT_REFUND.values(), *WRITE_REFUSALS],
        ),
    },
    "/reservations/{reservationId}": {
        "GET": Endpoint(
            reservations.find_reservation,
            cache_control="no-store",
            headers=[OWNER],
            successes=[Success(200, ReservationResponse)],
            refusals=[*CANNOT_FIND_RESERVATION.values(), BUSY],
        ),
        "DELETE": Endpoint(
            reservations.cancel_reservation,
            cache_control="no-store",
            headers=[OWNER],
            successes=[Success(200, ReservationResponse)],
            refusals=[*CANNOT_CANCEL_RESERVATION.values(), *WRITE_REFUSALS],
        ),
    },
    "/reservations/{reservationId}/payment": {
        "POST": Endpoint(
            reservations.pay_reservation,
            cache_control="no-store",
            body=tickets.PAYMENT_FIELDS,
            successes=[Success(200, ReservationResponse)],
            refusals=[*CANNOT_REACQUIRE_RESERVATION.values(), *WRITE_REFUSALS],
        ),
    },
    "/reservations/{reservationId}/refund": {
        "POST": Endpoint(
            reservations.refund_reservation,
            cache_control="no-store",
            body=tickets.REFUND_FIELDS,
            body_is_optional=True,
            for_organizer=True,
            successes=[Success(200, ReservationResponse)],
            refusals=[*CANNOT_REFUND_RESERVATION.values(), *WRITE_REFUSALS],
        ),
    },
    "/reservations/{reservationId}/extension": {
        "POST": Endpoint(
            reservations.extend_reservation,
            cache_control="no-store",
            body=tickets.OWNER_FIELDS,
            successes=[Success(200, ReservationResponse)],
            refusals=[*CANNOT_EXTEND_RESERVATION.values(), *WRITE_REFUSALS],
        ),
    },
    "/events/{eventId}/waiting": {
        "GET": Endpoint(
            waiting.list_waiting_entries,
            cache_control="no-store",
            query=waiting.LIST_QUERY,
            for_organizer=True,
            successes=[Success(200, EntryPage)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
        "POST": Endpoint(
            waiting.join_waiting_list,
            cache_control="no-store",
            body=tickets.reservation_fields,
            successes=[
                Success(201, EntryResponse, ["Location"]),
                Success(200, EntryResponse, ["Location"]),
            ],
            refusals=[*CANNOT_JOIN.values(), *WRITE_REFUSALS],
        ),
    },
    "/waiting/{entryId}": {
        "GET": Endpoint(
            waiting.find_waiting_entry,
            cache_control="no-store",
            headers=[OWNER],
            successes=[Success(200, EntryResponse)],
            refusals=[BUSY, ENTRY_NOT_FOUND, WRONG_FINGERPRINT],
        ),
        "DELETE": Endpoint(
            waiting.leave_waiting_list,
            cache_control="no-store",
            headers=[OWNER],
            successes=[Success(200, EntryResponse)],
            refusals=[*CANNOT_LEAVE.values(), *WRITE_REFUSALS],
        ),
    },
    "/tickets": {
        "GET": Endpoint(
            tickets.list_user_tickets,
            cache_control="no-store",
            query=tickets.LIST_QUERY,
            headers=[OWNER],
            successes=[Success(200, TicketPage)],
            refusals=[BUSY],
        ),
    },
    "/fingerprints": {
        "POST": Endpoint(
            fingerprints.create_fingerprint,
            cache_control="no-store",
            successes=[Success(201, FingerprintResponse)],
        ),
    },
    "/health": {
        "GET": Endpoint(
            health.check_health,
            cache_control="no-store",
            successes=[Success(200, HealthResponse), Success(503, HealthResponse)],
        ),
    },
    "/health/live": {
        "GET": Endpoint(
            health.check_live, cache_control="no-store", successes=[Success(200, LiveResponse)]
        )
    },
    "/metrics": {
        "GET": Endpoint(
            health.show_metrics,
            cache_control="no-store",
            successes=[Success(200, str, media_type=metrics.CONTENT_TYPE)],
        ),
    },
    "/": {
        "GET": Endpoint(
            docs.show_box_office,
            cache_control="no-cache",
            headers=[IF_NONE_MATCH],
            successes=[HTML_PAGE, Success(304, headers=["ETag"])],
        )
    },
    "/docs": {
        "GET": Endpoint(
            docs.show_docs,
            cache_control="no-cache",
            headers=[IF_NONE_MATCH],
            successes=[HTML_PAGE, Success(304, headers=["ETag"])],
        )
    },
    "/openapi.json": {
        "GET": Endpoint(docs.show_openapi, cache_control="no-cache", successes=[Success(200, dict)])
    },
}
