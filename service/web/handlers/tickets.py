"""Tickets: reserve, find, list, pay for, cancel and refund."""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import get_args

from starlette.responses import Response

from service import limits
from service.refusals import (
    CANNOT_CANCEL,
    CANNOT_PAY,
    CANNOT_REFUND,
    CANNOT_RESERVE,
    EVENT_NOT_FOUND,
    TICKET_NOT_FOUND,
    Available,
    Limit,
    Refusal,
    SaleCloses,
    SaleOpens,
)
from service.rows import AllocationStatus, TicketAllocation
from service.settings import Settings
from service.web.endpoints import IDEMPOTENCY_KEY, OPTIONAL_OWNER, OWNER, Call
from service.web.fields import FINGERPRINT, Reader, choice, integer, query_integer
from service.web.responses import PageMeta, TicketPage, TicketResponse, respond
from service.write_path.changes import (
    Cancel,
    Outcome,
    Pay,
    Refund,
    ReservationRefusal,
    Reserve,
)

OWNER_FIELDS: dict[str, Reader] = {"userFingerprint": FINGERPRINT}
LIST_QUERY = {
    "status": choice(*get_args(AllocationStatus)),
    "page": query_integer(1, limits.MAX_INTEGER, default=1),
    "limit": query_integer(1, limits.MAX_PAGE_SIZE, default=10),
}


def reservation_fields(settings: Settings) -> dict[str, Reader]:
    """Return the fields of a reservation; the maximum quantity is a setting."""
    return _reservation_fields(settings.max_tickets_per_request)


@cache
def _reservation_fields(max_quantity: int) -> dict[str, Reader]:
    return {"quantity": integer(1, max_quantity, example=1), **OWNER_FIELDS}


async def reserve_tickets(call: Call) -> Response | Refusal:
    """Reserve tickets of an event: the whole quantity or none."""
    owner: str = call.body["userFingerprint"]
    key: str = call.headers[IDEMPOTENCY_KEY.name] or ""
    outcome = await call.service.write_path.submit(
        Reserve(call.id, call.body["quantity"], owner, key)
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code not in ("granted", "replayed"):
        return _refuse_reservation(outcome)
    tickets = [TicketResponse.of(ticket, owner) for ticket in outcome.tickets]
    headers = {"Location": f"/reservations/{outcome.tickets[0].reservation_id}"}
    if outcome.code == "replayed":
        headers["Idempotency-Replayed"] = "true"
    return respond(tickets, 201, headers)


def _refuse_reservation(outcome: Outcome) -> Refusal:
    refusal, why = CANNOT_RESERVE[outcome.code], outcome.detail
    match outcome.code, why:
        case "sale_not_open", ReservationRefusal(_, datetime() as opens_at, float() as opens_in):
            # One second more for half of them, so that not all come at once.
            seconds = math.ceil(opens_in) + random.randint(0, 1)  # noqa: S311
            headers = {"Retry-After": str(min(seconds, limits.MAX_RETRY_AFTER_SECONDS))}
            return refusal.with_details(SaleOpens(opens_at), headers)
        case "sale_closed", ReservationRefusal(_, datetime() as closed_at):
            return refusal.with_details(SaleCloses(closed_at))
        case "limit_reached", ReservationRefusal(person=[limit, held, purchased]):
            return refusal.with_details(Limit(limit, held, purchased))
        case "not_enough_tickets" | "tickets_sold_out", ReservationRefusal(int() as available):
            return refusal.with_details(Available(available))
    return refusal


async def find_ticket(call: Call) -> Response | Refusal:
    """Find a ticket; its fingerprint is shown only to a caller that sends the same one."""
    tickets = await call.service.lookup_queries.find_tickets([call.id])
    if not tickets:
        return TICKET_NOT_FOUND
    return respond(TicketResponse.of(tickets[0], call.headers[OPTIONAL_OWNER.name]))


async def list_user_tickets(call: Call) -> Response | Refusal:
    """List the caller's own tickets for all events, newest first."""
    owner: str = call.headers[OWNER.name]
    status, page, limit = _page_query(call)
    tickets, total = await call.service.list_queries.list_user_tickets(
        owner, status, limit, (page - 1) * limit
    )
    return _respond_page(tickets, owner, total, page, limit)


async def list_event_tickets(call: Call) -> Response | Refusal:
    """List an event's tickets, newest first, without their fingerprints."""
    status, page, limit = _page_query(call)
    tickets, total = await call.service.list_queries.list_event_tickets(
        call.id, status, limit, (page - 1) * limit
    )
    if not total and await call.service.lookup_queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    return _respond_page(tickets, None, total, page, limit)


async def pay_ticket(call: Call) -> Response | Refusal:
    """Pay for a held ticket."""
    owner: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(Pay(ticket_id=call.id, user_fingerprint=owner))
    return _respond(outcome, CANNOT_PAY, owner)


async def cancel_ticket(call: Call) -> Response | Refusal:
    """Cancel a held ticket."""
    owner: str = call.headers[OWNER.name]
    outcome = await call.service.write_path.submit(
        Cancel(ticket_id=call.id, user_fingerprint=owner)
    )
    return _respond(outcome, CANNOT_CANCEL, owner)


async def refund_ticket(call: Call) -> Response | Refusal:
    """Refund a purchased ticket."""
    outcome = await call.service.write_path.submit(Refund(call.id))
    return _respond(outcome, CANNOT_REFUND, None)


def _page_query(call: Call) -> tuple[str, int, int]:
    """Return the status, page and limit of a request for a list; '' for any status."""
    return call.query["status"] or "", call.query["page"], call.query["limit"]


def _respond_page(
    tickets: Sequence[TicketAllocation], fingerprint: str | None, total: int, page: int, limit: int
) -> Response:
    data = [TicketResponse.of(ticket, fingerprint) for ticket in tickets]
    return respond(TicketPage(data, PageMeta.of(total, page, limit)))


def _respond(
    outcome: Outcome | Refusal, refusals: Mapping[str, Refusal], owner: str | None
) -> Response | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code != "granted":
        return refusals[outcome.code]
    (ticket,) = outcome.tickets
    return respond(TicketResponse.of(ticket, owner))
