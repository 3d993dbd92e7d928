"""Reservations: tickets that were reserved together, found, paid for and cancelled together."""

from collections.abc import Mapping

from starlette.responses import Response

from service.refusals import (
    CANNOT_CANCEL_RESERVATION,
    CANNOT_PAY_RESERVATION,
    RESERVATION_NOT_FOUND,
    WRONG_FINGERPRINT,
    InTheWay,
    Refusal,
)
from service.web.endpoints import OWNER, Call
from service.web.responses import ReservationResponse, respond
from service.write_path.changes import Cancel, Outcome, Pay


async def find_reservation(call: Call) -> Response | Refusal:
    """Find a reservation: the tickets of it that its caller owns."""
    owner: str = call.headers[OWNER.name]
    tickets = await call.service.queries.find_reservations([call.id])
    if not tickets:
        return RESERVATION_NOT_FOUND
    own = [ticket for ticket in tickets if ticket.user_fingerprint == owner]
    if not own:
        return WRONG_FINGERPRINT.because(InTheWay(tickets[0].id))
    return respond(ReservationResponse.of(own, owner))


async def pay_reservation(call: Call) -> Response | Refusal:
    """Pay for every ticket of a reservation that is held, unless one has lapsed."""
    owner: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(
        Pay(
            reservation_id=call.id,
            user_fingerprint=owner,
            tickets_at_most=call.service.settings.max_tickets_per_request,
        )
    )
    return _answer(outcome, CANNOT_PAY_RESERVATION, owner)


async def cancel_reservation(call: Call) -> Response | Refusal:
    """Cancel every ticket of a reservation that is held, unless one is purchased."""
    owner: str = call.headers[OWNER.name]
    outcome = await call.service.write_path.submit(
        Cancel(
            reservation_id=call.id,
            user_fingerprint=owner,
            tickets_at_most=call.service.settings.max_tickets_per_request,
        )
    )
    return _answer(outcome, CANNOT_CANCEL_RESERVATION, owner)


def _answer(
    outcome: Outcome | Refusal, refusals: Mapping[str, Refusal], owner: str
) -> Response | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code == "granted":
        return respond(ReservationResponse.of(outcome.tickets, owner))
    refusal = refusals[outcome.code]
    ticket = outcome.detail
    return refusal.because(InTheWay(ticket)) if isinstance(ticket, str) else refusal
