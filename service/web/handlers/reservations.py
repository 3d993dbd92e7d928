"""Reservations: what was asked for together, found, paid for and cancelled whole or not at all."""

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
from service.web.responses import ReservationAnswer, respond
from service.write_path.changes import CancelReservation, Outcome, PayReservation


async def find_reservation(call: Call) -> Response | Refusal:
    """Find a reservation, for its owner alone."""
    owner: str = call.headers[OWNER.name]
    tickets = await call.service.queries.find_reservations([call.id])
    if not tickets:
        return RESERVATION_NOT_FOUND
    for ticket in tickets:
        if ticket.user_fingerprint != owner:
            return WRONG_FINGERPRINT.because(InTheWay(ticket.id))
    return respond(ReservationAnswer.of(tickets, owner))


async def pay_reservation(call: Call) -> Response | Refusal:
    """Pay for all tickets of a reservation, or for none."""
    owner: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(
        PayReservation(call.id, owner, call.service.settings.max_tickets_per_request)
    )
    return _answer(outcome, CANNOT_PAY_RESERVATION, owner)


async def cancel_reservation(call: Call) -> Response | Refusal:
    """Give all tickets of a reservation back, or none."""
    owner: str = call.headers[OWNER.name]
    outcome = await call.service.write_path.submit(
        CancelReservation(call.id, owner, call.service.settings.max_tickets_per_request)
    )
    return _answer(outcome, CANNOT_CANCEL_RESERVATION, owner)


def _answer(
    outcome: Outcome | Refusal, refusals: Mapping[str, Refusal], owner: str
) -> Response | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.word == "granted":
        return respond(ReservationAnswer.of(outcome.tickets, owner))
    refusal = refusals[outcome.word]
    ticket = outcome.detail
    return refusal.because(InTheWay(ticket)) if isinstance(ticket, str) else refusal
