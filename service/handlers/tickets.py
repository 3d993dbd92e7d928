"""Tickets: reserved, found, paid for, cancelled and refunded."""

from collections.abc import Mapping
from functools import cache

from starlette.responses import Response

from service import limits
from service.answers import TicketAnswer, respond
from service.calls import FINGERPRINT_HEADER, KEY_HEADER, BadHeader, Call
from service.changes import Cancel, Outcome, Pay, Refund, Reserve
from service.fields import Reader, integer, token
from service.refusals import (
    CANNOT_CANCEL,
    CANNOT_PAY,
    CANNOT_REFUND,
    CANNOT_RESERVE,
    TICKET_NOT_FOUND,
    Refusal,
)
from service.state import Service

FINGERPRINT = token(limits.MAX_FINGERPRINT)
KEY = token(limits.MAX_KEY)
OWNER_FIELDS: dict[str, Reader] = {"userFingerprint": FINGERPRINT}


def reservation_fields(service: Service) -> dict[str, Reader]:
    """Return the fields of a reservation; how many tickets one may want is a setting."""
    return _reservation_fields(service.settings.max_tickets_per_request)


@cache
def _reservation_fields(most: int) -> dict[str, Reader]:
    return {"quantity": integer(1, most), **OWNER_FIELDS}


async def reserve_tickets(call: Call) -> Response | Refusal:
    """Reserve tickets of an event, all of them or none."""
    fingerprint: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(
        Reserve(
            call.id,
            call.body["quantity"],
            fingerprint,
            call.header(KEY_HEADER, KEY) or "",
        )
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.word not in ("granted", "replayed"):
        refusal = CANNOT_RESERVE[outcome.word]
        if outcome.count is None:
            return refusal
        return refusal.because({"availableTickets": outcome.count})
    tickets = [TicketAnswer.of(ticket, fingerprint) for ticket in outcome.tickets]
    replayed = {"Idempotency-Replayed": "true"} if outcome.word == "replayed" else None
    return respond(tickets, 201, replayed)


async def find_ticket(call: Call) -> Response | Refusal:
    """Find a ticket; whoever names its fingerprint is shown it."""
    fingerprint = call.header(FINGERPRINT_HEADER, FINGERPRINT)
    for ticket in await call.service.queries.find_tickets([call.id]):
        return respond(TicketAnswer.of(ticket, fingerprint))
    return TICKET_NOT_FOUND


async def pay_ticket(call: Call) -> Response | Refusal:
    """Pay for a ticket that one holds."""
    fingerprint: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(Pay(call.id, fingerprint))
    return _answer(outcome, CANNOT_PAY, fingerprint)


async def cancel_ticket(call: Call) -> Response | Refusal:
    """Give back a ticket that one holds."""
    fingerprint = call.header(FINGERPRINT_HEADER, FINGERPRINT)
    if fingerprint is None:
        raise BadHeader("The header X-User-Fingerprint is missing")
    outcome = await call.service.write_path.submit(Cancel(call.id, fingerprint))
    return _answer(outcome, CANNOT_CANCEL, fingerprint)


async def refund_ticket(call: Call) -> Response | Refusal:
    """Take a purchase back."""
    outcome = await call.service.write_path.submit(Refund(call.id))
    return _answer(outcome, CANNOT_REFUND, None)


def _answer(
    outcome: Outcome | Refusal, refusals: Mapping[str, Refusal], fingerprint: str | None
) -> Response | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.word != "granted":
        return refusals[outcome.word]
    (ticket,) = outcome.tickets
    return respond(TicketAnswer.of(ticket, fingerprint))
