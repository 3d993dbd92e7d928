"""The routes: every path and method, with what each reads, answers and refuses.

What is served, what the description says and what the tests go through is this one table.
"""

from service import metrics
from service.refusals import (
    BUSY,
    CANNOT_CANCEL,
    CANNOT_CANCEL_RESERVATION,
    CANNOT_FIND_RESERVATION,
    CANNOT_PAY,
    CANNOT_PAY_RESERVATION,
    CANNOT_REFUND,
    CANNOT_RESERVE,
    CANNOT_UPDATE,
    EVENT_EXISTS,
    EVENT_NOT_FOUND,
    TICKET_NOT_FOUND,
    UNSURE,
)
from service.web.endpoints import ASKER, KEY, KNOWN_TAGS, KNOWN_VERSION, OWNER, Answer, Endpoint
from service.web.handlers import docs, events, fingerprints, health, ledger, reservations, tickets
from service.web.responses import (
    AuditResponse,
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

PAGE = Answer(200, str, ["Content-Security-Policy"], "text/html; charset=utf-8")
"""A page for people."""

ROUTES: dict[str, dict[str, Endpoint]] = {
    # Looked through in this order: first what a crowd asks for.
    "/events/{id}/tickets": {
        "GET": Endpoint(
            tickets.list_event_tickets,
            query=tickets.LIST_QUERY,
            for_organizer=True,
            answers=[Answer(200, TicketPage)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
        "POST": Endpoint(
            tickets.reserve_tickets,
            body=tickets.reservation_fields,
            headers=[KEY],
            answers=[Answer(201, list[TicketResponse], ["Idempotency-Replayed"])],
            refusals=[*CANNOT_RESERVE.values(), *UNSURE],
        ),
    },
    "/events": {
        "GET": Endpoint(
            events.list_events,
            query=events.LIST_QUERY,
            answers=[Answer(200, EventPage)],
            refusals=[BUSY],
        ),
        "POST": Endpoint(
            events.create_event,
            body=events.EVENT_FIELDS,
            for_organizer=True,
            answers=[Answer(201, EventResponse, ["Location"])],
            refusals=[EVENT_EXISTS, *UNSURE],
        ),
    },
    "/events/{id}": {
        "GET": Endpoint(
            events.find_event,
            query=events.FIND_QUERY,
            headers=[KNOWN_TAGS],
            answers=[Answer(200, EventResponse, ["ETag"]), Answer(304, headers=["ETag"])],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
        "PATCH": Endpoint(
            events.update_event,
            body=events.EVENT_FIELDS,
            partial=True,
            for_organizer=True,
            answers=[Answer(200, EventResponse)],
            refusals=[*CANNOT_UPDATE.values(), *UNSURE],
        ),
    },
    "/events/{id}/stream": {
        "GET": Endpoint(
            ledger.stream_event,
            headers=[KNOWN_VERSION],
            streams=True,
            answers=[
                Answer(200, WatchedEventResponse, ["Cache-Control"], EventStream.media_type),
            ],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
    },
    "/events/{id}/ledger": {
        "GET": Endpoint(
            ledger.list_ledger,
            query=ledger.LIST_QUERY,
            answers=[Answer(200, LedgerPage)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
    },
    "/events/{id}/audit": {
        "GET": Endpoint(
            ledger.check_event,
            answers=[Answer(200, AuditResponse)],
            refusals=[BUSY, EVENT_NOT_FOUND],
        ),
    },
    "/events/tickets/{id}": {
        "GET": Endpoint(
            tickets.find_ticket,
            headers=[ASKER],
            answers=[Answer(200, TicketResponse)],
            refusals=[BUSY, TICKET_NOT_FOUND],
        ),
    },
    "/events/tickets/{id}/payment": {
        "POST": Endpoint(
            tickets.pay_ticket,
            body=tickets.OWNER_FIELDS,
            answers=[Answer(200, TicketResponse)],
            refusals=[*CANNOT_PAY.values(), *UNSURE],
        ),
        "DELETE": Endpoint(
            tickets.cancel_ticket,
            headers=[OWNER],
            answers=[Answer(200, TicketResponse)],
            refusals=[*CANNOT_CANCEL.values(), *UNSURE],
        ),
    },
    "/events/tickets/{id}/refund": {
        "POST": Endpoint(
            tickets.refund_ticket,
            for_organizer=True,
            answers=[Answer(200, TicketResponse)],
            refusals=[*CANNOT_REFUND.values(), *UNSURE],
        ),
    },
    "/reservations/{id}": {
        "GET": Endpoint(
            reservations.find_reservation,
            headers=[OWNER],
            answers=[Answer(200, ReservationResponse)],
            refusals=[*CANNOT_FIND_RESERVATION.values(), BUSY],
        ),
        "DELETE": Endpoint(
            reservations.cancel_reservation,
            headers=[OWNER],
            answers=[Answer(200, ReservationResponse)],
            refusals=[*CANNOT_CANCEL_RESERVATION.values(), *UNSURE],
        ),
    },
    "/reservations/{id}/payment": {
        "POST": Endpoint(
            reservations.pay_reservation,
            body=tickets.OWNER_FIELDS,
            answers=[Answer(200, ReservationResponse)],
            refusals=[*CANNOT_PAY_RESERVATION.values(), *UNSURE],
        ),
    },
    "/tickets": {
        "GET": Endpoint(
            tickets.list_user_tickets,
            query=tickets.LIST_QUERY,
            headers=[OWNER],
            answers=[Answer(200, TicketPage)],
            refusals=[BUSY],
        ),
    },
    "/fingerprints": {
        "POST": Endpoint(fingerprints.create_fingerprint, answers=[Answer(201, FingerprintResponse)]),
    },
    "/health": {
        "GET": Endpoint(
            health.check_health, answers=[Answer(200, HealthResponse), Answer(503, HealthResponse)]
        ),
    },
    "/health/live": {"GET": Endpoint(health.check_live, answers=[Answer(200, LiveResponse)])},
    "/metrics": {
        "GET": Endpoint(
            health.show_metrics, answers=[Answer(200, str, media_type=metrics.CONTENT_TYPE)]
        ),
    },
    "/": {"GET": Endpoint(docs.show_index, answers=[PAGE])},
    "/docs": {"GET": Endpoint(docs.show_docs, answers=[PAGE])},
    "/openapi.json": {"GET": Endpoint(docs.show_openapi, answers=[Answer(200, dict)])},
}
"""Every route of the service: by path, then by method. HEAD works wherever GET does."""
