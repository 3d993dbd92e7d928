"""Reservations: find, pay for, extend, cancel and refund tickets that were reserved together."""

from collections.abc import Mapping

from starlette.responses import Response

from service.refusals import (
    CANNOT_CANCEL_RESERVATION,
    CANNOT_EXTEND_RESERVATION,
    CANNOT_PAY_RESERVATION,
    CANNOT_REACQUIRE_RESERVATION,
    CANNOT_REFUND_RESERVATION,
    HOLD_AT_MAXIMUM,
    RESERVATION_NOT_FOUND,
    WRONG_FINGERPRINT,
    HeldUntil,
    InTheWay,
    Refusal,
)
from service.web.endpoints import OWNER, Call
from service.web.handlers.tickets import add_details, refuse_refund
from service.web.responses import ReservationResponse, respond
from service.write_path.changes import Cancel, Extend, Pay, Reacquire, Refund
from service.write_path.outcomes import LatePaymentRefusal, Outcome


async def find_reservation(call: Call) -> Response | Refusal:
    """Find a reservation, with those of its tickets that the caller owns.

    Its `status` is that of the tickets, or `mixed`. Its `expiresAt` is the earliest of those held.
    """
    owner: str = call.headers[OWNER.name]
    tickets = await call.service.lookup_queries.find_reservations([call.id])
    if not tickets:
        return RESERVATION_NOT_FOUND
    own = [ticket for ticket in tickets if ticket.user_fingerprint == owner]
    if not own:
        return WRONG_FINGERPRINT.with_details(InTheWay(tickets[0].id))
    return respond(ReservationResponse.of(own, owner))


async def pay_reservation(call: Call) -> Response | Refusal:
    """Pay for all held tickets of a reservation; refused if a hold has expired.

    Pays for all of them or none, and passes over tickets that were purchased, cancelled or refunded
    before; the response shows all tickets. With `ifExpired` the expired tickets are reacquired, if
    as many are available, also after the sale has closed. `details.ticketId` names the ticket that
    decided a refusal.
    """
    owner: str = call.body["userFingerprint"]
    may_reacquire = call.body.get("ifExpired") == "reacquire"
    kind = Reacquire if may_reacquire else Pay
    refusals = CANNOT_REACQUIRE_RESERVATION if may_reacquire else CANNOT_PAY_RESERVATION
    outcome = await call.service.write_path.submit(
        kind(
            reservation_id=call.id,
            user_fingerprint=owner,
            max_tickets=call.service.settings.max_tickets_per_request,
        )
    )
    return _respond(outcome, refusals, owner)


async def cancel_reservation(call: Call) -> Response | Refusal:
    """Cancel all held tickets of a reservation; refused if a ticket is purchased.

    Cancels all of them or none, and passes over tickets that were cancelled or refunded or have
    expired before; the response shows all tickets. `details.ticketId` names the ticket that decided
    a refusal.
    """
    owner: str = call.headers[OWNER.name]
    outcome = await call.service.write_path.submit(
        Cancel(
            reservation_id=call.id,
            user_fingerprint=owner,
            max_tickets=call.service.settings.max_tickets_per_request,
        )
    )
    return _respond(outcome, CANNOT_CANCEL_RESERVATION, owner)


async def extend_reservation(call: Call) -> Response | Refusal:
    """Extend the holds of a reservation: they last a whole hold length again, from now.

    Extends all held tickets or none. No hold is extended beyond the maximum of the event.
    """
    owner: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(
        Extend(
            reservation_id=call.id,
            user_fingerprint=owner,
            max_tickets=call.service.settings.max_tickets_per_request,
        )
    )
    if isinstance(outcome, Outcome) and outcome.code == "hold_at_maximum":
        ends = [ticket.expires_at for ticket in outcome.tickets if ticket.status == "reserved"]
        return HOLD_AT_MAXIMUM.with_details(HeldUntil(min(end for end in ends if end)))
    return _respond(outcome, CANNOT_EXTEND_RESERVATION, owner)


async def refund_reservation(call: Call) -> Response | Refusal:
    """Refund all purchased tickets of a reservation.

    They are available to others at once; with `resale` false they do not come back on sale.
    Tickets that are not purchased are passed over. The service itself moves no money.
    """
    outcome = await call.service.write_path.submit(
        Refund(
            reservation_id=call.id,
            resale=call.body.get("resale", True),
            max_tickets=call.service.settings.max_tickets_per_request,
        )
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code == "granted":
        return respond(ReservationResponse.of(outcome.tickets, None))
    return refuse_refund(outcome, CANNOT_REFUND_RESERVATION)


def _respond(
    outcome: Outcome | Refusal, refusals: Mapping[str, Refusal], owner: str
) -> Response | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code == "granted":
        return respond(ReservationResponse.of(outcome.tickets, owner))
    refusal = add_details(refusals[outcome.code], outcome)
    ticket_id = outcome.detail
    if isinstance(ticket_id, LatePaymentRefusal):
        ticket_id = ticket_id.deciding_ticket_id
    if refusal.details is None and isinstance(ticket_id, str):
        return refusal.with_details(InTheWay(ticket_id))
    return refusal
