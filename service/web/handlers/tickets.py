"""Tickets: reserve, find, list, pay for, cancel and refund."""

from collections.abc import Mapping, Sequence
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
    Refusal,
)
from service.rows import AllocationStatus, TicketAllocation
from service.settings import Settings
from service.web.endpoints import IDEMPOTENCY_KEY, OPTIONAL_OWNER, OWNER, Call
from service.web.fields import FINGERPRINT, Reader, choice, integer, query_integer
from service.web.responses import PageMeta, TicketPage, TicketResponse, respond
from service.write_path.changes import Cancel, Outcome, Pay, Refund, Reserve

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
    """Reserve tickets of an event: the whole quantity or none.

    The tickets are held until `expiresAt` for the owner of the fingerprint. `Location` is the path
    of the reservation. With an `Idempotency-Key` the request may be sent again: it reserves once,
    and each replay returns the same tickets, as they are then.
    """
    owner: str = call.body["userFingerprint"]
    key: str = call.headers[IDEMPOTENCY_KEY.name] or ""
    outcome = await call.service.write_path.submit(
        Reserve(call.id, call.body["quantity"], owner, key)
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code not in ("granted", "replayed"):
        refusal = CANNOT_RESERVE[outcome.code]
        available = outcome.detail
        return refusal.with_details(Available(available)) if isinstance(available, int) else refusal
    tickets = [TicketResponse.of(ticket, owner) for ticket in outcome.tickets]
    headers = {"Location": f"/reservations/{outcome.tickets[0].reservation_id}"}
    if outcome.code == "replayed":
        headers["Idempotency-Replayed"] = "true"
    return respond(tickets, 201, headers)


async def find_ticket(call: Call) -> Response | Refusal:
    """Find a ticket; its fingerprint is shown only to a caller that sends the same one.

    Anybody who knows its ID can find it. A hold whose time is up is shown as `expired`.
    """
    tickets = await call.service.lookup_queries.find_tickets([call.id])
    if not tickets:
        return TICKET_NOT_FOUND
    return respond(TicketResponse.of(tickets[0], call.headers[OPTIONAL_OWNER.name]))


async def list_user_tickets(call: Call) -> Response | Refusal:
    """List the caller's own tickets for all events, newest first.

    The owner is the fingerprint in the header. `status` selects tickets as they are shown: a hold
    whose time is up is `expired`. A page after the last is empty.
    """
    owner: str = call.headers[OWNER.name]
    status, page, limit = _page_query(call)
    tickets, total = await call.service.list_queries.list_user_tickets(
        owner, status, limit, (page - 1) * limit
    )
    return _respond_page(tickets, owner, total, page, limit)


async def list_event_tickets(call: Call) -> Response | Refusal:
    """List an event's tickets, newest first, without their fingerprints.

    `status` selects tickets as they are shown: a hold whose time is up is `expired`. A page after
    the last is empty.
    """
    status, page, limit = _page_query(call)
    tickets, total = await call.service.list_queries.list_event_tickets(
        call.id, status, limit, (page - 1) * limit
    )
    if not total and await call.service.lookup_queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    return _respond_page(tickets, None, total, page, limit)


async def pay_ticket(call: Call) -> Response | Refusal:
    """Pay for a held ticket.

    Possible until the hold expires. The request may be sent again: a ticket that is paid for is
    refused with `ALREADY_PURCHASED`. The service itself moves no money.
    """
    owner: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(Pay(ticket_id=call.id, user_fingerprint=owner))
    return _respond(outcome, CANNOT_PAY, owner)


async def cancel_ticket(call: Call) -> Response | Refusal:
    """Cancel a held ticket.

    The ticket is available to others at once. A purchased ticket can only be refunded, by the
    organizer.
    """
    owner: str = call.headers[OWNER.name]
    outcome = await call.service.write_path.submit(
        Cancel(ticket_id=call.id, user_fingerprint=owner)
    )
    return _respond(outcome, CANNOT_CANCEL, owner)


async def refund_ticket(call: Call) -> Response | Refusal:
    """Refund a purchased ticket.

    The ticket is available to others at once. The service itself moves no money.
    """
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
