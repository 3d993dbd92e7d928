"""Tickets: reserve, find, list, pay for, transfer, cancel and refund."""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import get_args

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict
from starlette.responses import Response

from service import limits
from service.refusals import (
    BAD_REQUEST,
    CANNOT_CANCEL,
    CANNOT_PAY,
    CANNOT_REACQUIRE,
    CANNOT_REFUND,
    CANNOT_RESERVE,
    CANNOT_TRANSFER,
    EVENT_NOT_FOUND,
    TICKET_NOT_FOUND,
    Allocated,
    Available,
    BadField,
    Limit,
    Refusal,
    SaleCloses,
    SaleOpens,
    Waiting,
)
from service.rows import AllocationStatus, TicketAllocation, Uuid
from service.settings import Settings
from service.web.endpoints import IDEMPOTENCY_KEY, OPTIONAL_OWNER, OWNER, Call
from service.web.fields import (
    FINGERPRINT,
    OPTIONAL_BOOLEAN,
    UUID,
    Reader,
    choice,
    integer,
    optional,
    query_integer,
)
from service.web.responses import PageMeta, TicketPage, TicketPageMeta, TicketResponse, respond
from service.write_path.changes import Cancel, Pay, Reacquire, Refund, Reserve, Transfer
from service.write_path.outcomes import LatePaymentRefusal, Outcome, ReservationRefusal

OWNER_FIELDS: dict[str, Reader] = {"userFingerprint": FINGERPRINT}
PAYMENT_FIELDS = {
    **OWNER_FIELDS,
    "ifExpired": optional(choice("reacquire")).with_description(
        "For a buyer whose money is taken: purchase an expired ticket, too, if one is available."
    ),
}
TRANSFER_FIELDS = {**OWNER_FIELDS, "newUserFingerprint": FINGERPRINT}
REFUND_FIELDS = {"resale": OPTIONAL_BOOLEAN}
LIST_QUERY = {
    "status": choice(*get_args(AllocationStatus)),
    "page": query_integer(1, limits.MAX_INTEGER).with_description(
        "The number of a page. If tickets are added or change their status between two requests, "
        "a page can repeat or miss some. Not with `after`."
    ),
    "limit": query_integer(1, limits.MAX_TICKET_PAGE_SIZE, default=10),
    "after": UUID.with_description(
        "List the tickets after this one: send the `next` of the page before. Not with `page`."
    ),
}
EVENT_LIST_QUERY = {
    **LIST_QUERY,
    "reservationId": UUID.with_description(
        "List only the tickets of this reservation. Not with `after`."
    ),
}
PAGE_AND_AFTER = BAD_REQUEST.with_details([BadField("after", "must not be sent with page")])
TO_ONESELF = BAD_REQUEST.with_details(
    [BadField("newUserFingerprint", "must not be the userFingerprint")]
)
RESERVATION_AND_AFTER = BAD_REQUEST.with_details(
    [BadField("after", "must not be sent with reservationId")]
)
NOT_IN_LIST = BAD_REQUEST.with_details([BadField("after", "is not a ticket of this list")])


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
    and each replay returns the same tickets in their current state.
    """
    owner: str = call.body["userFingerprint"]
    key: str = call.headers[IDEMPOTENCY_KEY.name] or ""
    outcome = await call.service.write_path.submit(
        Reserve(call.id, call.body["quantity"], owner, key)
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code not in ("granted", "replayed"):
        return refuse_by_sale(CANNOT_RESERVE[outcome.code], outcome)
    tickets = [TicketResponse.of(ticket, owner) for ticket in outcome.tickets]
    headers = {"Location": f"/reservations/{outcome.tickets[0].reservation_id}"}
    if outcome.code == "replayed":
        headers["Idempotency-Replayed"] = "true"
    return respond(tickets, 201, headers)


def refuse_by_sale(refusal: Refusal, outcome: Outcome) -> Refusal:
    """Return the refusal of a reservation, or of joining, with what the sale says about it."""
    match outcome.code, outcome.detail:
        case "sale_not_open", ReservationRefusal(
            sale_turns_at=datetime() as opens_at, opens_in=float() as opens_in
        ):
            # Half of the clients wait one second longer, so that not all retry at once.
            seconds = math.ceil(opens_in) + random.randint(0, 1)  # noqa: S311
            headers = {"Retry-After": str(min(seconds, limits.MAX_RETRY_AFTER_SECONDS))}
            return refusal.with_details(SaleOpens(opens_at), headers)
        case "sale_closed", ReservationRefusal(sale_turns_at=datetime() as closed_at):
            return refusal.with_details(SaleCloses(closed_at))
        case "limit_reached", ReservationRefusal(person=[limit, held, purchased]):
            return refusal.with_details(Limit(limit, held, purchased))
        case "waiting_list_first", ReservationRefusal(int() as available, int() as waiting):
            return refusal.with_details(Waiting(available, waiting))
        case "not_enough_tickets" | "tickets_sold_out", ReservationRefusal(int() as available):
            return refusal.with_details(Available(available))
    return refusal


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

    The owner is the fingerprint in the header. `status` is compared with the status in the
    response: a hold whose time is up is `expired`. A page after the last is empty.
    """
    owner: str = call.headers[OWNER.name]
    status, page, limit, after = _list_query(call)
    queries = call.service.list_queries
    if after and page:
        return PAGE_AND_AFTER
    if after:
        following = await queries.list_user_tickets_after(owner, status, after, limit + 1)
        return _respond_following(following, owner, limit)
    skip = ((page or 1) - 1) * limit
    tickets, total = await queries.list_user_tickets(owner, status, limit, skip)
    return _respond_page(tickets, owner, total, page, limit)


async def list_event_tickets(call: Call) -> Response | Refusal:
    """List an event's tickets, newest first, without their fingerprints.

    `status` is compared with the status in the response: a hold whose time is up is `expired`. A
    page after the last is empty. With `reservationId`, the list has only the tickets of this event
    that were reserved together.
    """
    status, page, limit, after = _list_query(call)
    queries = call.service.list_queries
    if after and page:
        return PAGE_AND_AFTER
    if call.query["reservationId"]:
        return RESERVATION_AND_AFTER if after else await _list_reservation(call)
    if after:
        following = await queries.list_event_tickets_after(call.id, status, after, limit + 1)
        return _respond_following(following, None, limit)
    skip = ((page or 1) - 1) * limit
    tickets, total = await queries.list_event_tickets(call.id, status, limit, skip)
    if not total and await call.service.lookup_queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    return _respond_page(tickets, None, total, page, limit)


async def _list_reservation(call: Call) -> Response | Refusal:
    """List the tickets of a reservation, as a part of its event's list; they are few."""
    status, page, limit, _ = _list_query(call)
    queries = call.service.lookup_queries
    tickets = [
        ticket
        for ticket in await queries.find_reservations([call.query["reservationId"]])
        if ticket.event_id == call.id and status in ("", ticket.status)
    ]
    if not tickets and await queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    tickets.sort(key=lambda ticket: (ticket.created_at, ticket.id), reverse=True)
    skip = ((page or 1) - 1) * limit
    return _respond_page(tickets[skip : skip + limit], None, len(tickets), page, limit)


async def pay_ticket(call: Call) -> Response | Refusal:
    """Pay for a held ticket.

    Possible until the hold expires. With `ifExpired` an expired ticket is reacquired, if one is
    available, also after the sale has closed. The request may be sent again: a ticket that is paid
    for is refused with `ALREADY_PURCHASED`. The service itself moves no money.
    """
    owner: str = call.body["userFingerprint"]
    may_reacquire = call.body.get("ifExpired") == "reacquire"
    kind = Reacquire if may_reacquire else Pay
    outcome = await call.service.write_path.submit(kind(ticket_id=call.id, user_fingerprint=owner))
    return _respond(outcome, CANNOT_REACQUIRE if may_reacquire else CANNOT_PAY, owner)


async def transfer_ticket(call: Call) -> Response | Refusal:
    """Give a held or purchased ticket to a new owner.

    A hold ends when it would have ended. The new owner's limit counts. If the request is sent again
    it is refused with `WRONG_FINGERPRINT`: the ticket belongs to the new owner.
    """
    owner, new_owner = call.body["userFingerprint"], call.body["newUserFingerprint"]
    if owner == new_owner:
        return TO_ONESELF
    outcome = await call.service.write_path.submit(
        Transfer(ticket_id=call.id, user_fingerprint=owner, new_user_fingerprint=new_owner)
    )
    return _respond(outcome, CANNOT_TRANSFER, new_owner)


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

    The ticket is available to others at once; with `resale` false it does not come back on sale,
    and the event has one ticket fewer. The service itself moves no money.
    """
    outcome = await call.service.write_path.submit(
        Refund(ticket_id=call.id, resale=call.body.get("resale", True))
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code != "granted":
        return refuse_refund(outcome, CANNOT_REFUND)
    (ticket,) = outcome.tickets
    return respond(TicketResponse.of(ticket, None))


def add_details(refusal: Refusal, outcome: Outcome) -> Refusal:
    """Return the refusal of a late payment or a transfer, with the numbers that explain it."""
    match outcome.code, outcome.detail:
        case "hold_expired", LatePaymentRefusal(_, int() as available, int() as waiting):
            return refusal.with_details(Waiting(available, waiting))
        case "limit_reached", LatePaymentRefusal(person=[limit, held, purchased]):
            return refusal.with_details(Limit(limit, held, purchased))
        case "limit_reached", [int() as limit, int() as held, int() as purchased]:
            return refusal.with_details(Limit(limit, held, purchased))
    return refusal


def refuse_refund(outcome: Outcome, refusals: Mapping[str, Refusal]) -> Refusal:
    """Return the refusal of a refund.

    If the refund would leave the event without tickets, the refusal has the number of allocated
    tickets in its details.
    """
    refusal = refusals[outcome.code]
    if outcome.code == "capacity_below_allocated" and isinstance(outcome.detail, int):
        return refusal.with_details(Allocated(outcome.detail))
    return refusal


def _list_query(call: Call) -> tuple[str, int | None, int, Uuid | None]:
    """Return the status, page, limit and cursor of a request for a list; '' for any status."""
    query = call.query
    return query["status"] or "", query["page"], query["limit"], query["after"]


def _respond_page(
    tickets: Sequence[TicketAllocation],
    fingerprint: str | None,
    total: int,
    page: int | None,
    limit: int,
) -> Response:
    """Return a page of tickets, counted.

    ``page`` is None if the request has no page number: it gets the first page, with the cursor of
    the next one.
    """
    next_after: Uuid | UnsetType | None = UNSET
    if page is None:
        next_after = tickets[-1].id if total > limit else None
    numbered = asdict(PageMeta.of(total, page or 1, limit))
    meta = TicketPageMeta(**numbered, next=next_after)
    return respond(TicketPage([TicketResponse.of(ticket, fingerprint) for ticket in tickets], meta))


def _respond_following(
    tickets: Sequence[TicketAllocation] | None, fingerprint: str | None, limit: int
) -> Response | Refusal:
    """Return a page of the tickets that follow a cursor.

    ``tickets`` is None if the cursor is not in the list. One more ticket than the limit shows that
    there is another page.
    """
    if tickets is None:
        return NOT_IN_LIST
    page = tickets[:limit]
    meta = TicketPageMeta(limit=limit, next=page[-1].id if len(tickets) > limit else None)
    return respond(TicketPage([TicketResponse.of(ticket, fingerprint) for ticket in page], meta))


def _respond(
    outcome: Outcome | Refusal, refusals: Mapping[str, Refusal], owner: str
) -> Response | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code != "granted":
        return add_details(refusals[outcome.code], outcome)
    (ticket,) = outcome.tickets
    return respond(TicketResponse.of(ticket, owner))
