"""Cancellation: only by the owner, and only once; the ticket is available again at once."""

import pytest

from service.write_path.changes import Cancel, Pay
from tests.support.batches import carry_out
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.waiting import at_once

pytestmark = pytest.mark.core


def test_a_cancelled_ticket_is_available_at_once(client: Client) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    response = client.cancel(ticket)
    assert (response.status_code, response.json()["status"]) == (200, "user_cancelled")
    assert response.json()["expiresAt"] is not None
    assert client.reserve(event, user="bob").status_code == 201


def test_twenty_cancellations_of_one_hold_return_one_ticket(client: Client) -> None:
    event = client.create_event(tickets=5)
    first, _ = client.hold(event, quantity=2)
    responses = at_once(*[lambda: client.cancel(first)] * 20)
    assert sorted(response.status_code for response in responses) == [200] + [409] * 19
    refusals = {code(response) for response in responses if response.status_code == 409}
    assert refusals == {(409, "ALREADY_CANCELLED")}
    assert client.find_event(event)["availableTickets"] == 4


def test_another_user_cannot_cancel_a_ticket(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    assert code(client.cancel(ticket, user="mallory")) == (403, "WRONG_FINGERPRINT")
    assert client.find_ticket(ticket).json()["status"] == "reserved"


def test_a_purchased_ticket_is_not_cancelled(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    client.pay(ticket)
    response = client.cancel(ticket)
    assert code(response) == (409, "ALREADY_PURCHASED")
    assert response.json()["error"] == "Can only cancel reserved tickets"


def test_an_expired_hold_is_not_cancelled(client: Client, database: Database) -> None:
    (ticket,) = client.hold(client.create_event())
    database.expire_hold(ticket)
    assert code(client.cancel(ticket)) == (410, "HOLD_EXPIRED")


def test_a_refunded_ticket_is_not_cancelled(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    client.pay(ticket)
    client.refund(ticket)
    assert code(client.cancel(ticket)) == (409, "ALREADY_REFUNDED")


def test_a_cancellation_requires_the_fingerprint(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    response = client.delete(f"/events/tickets/{ticket}/payment")
    assert code(response) == (400, "BAD_REQUEST")
    assert client.find_ticket(ticket).json()["status"] == "reserved"


def test_an_unknown_ticket_is_not_cancelled(client: Client) -> None:
    assert code(client.cancel("018f0000-0000-7000-8000-000000000002")) == (404, "NOT_FOUND")


@pytest.mark.parametrize("kind", [Pay, Cancel])
def test_the_second_of_a_batch_is_told_what_it_would_be_told_later(
    client: Client, database: Database, kind: type[Pay] | type[Cancel]
) -> None:
    """Of a reservation of which one ticket was bought, or has lapsed, before."""
    tickets = client.reserve(client.create_event(), 2).json()
    first, reservation = tickets[0]["id"], tickets[0]["reservationId"]
    if kind is Pay:
        client.pay(first).raise_for_status()
    else:
        database.expire_hold(first)
    change = kind(reservation_id=reservation, user_fingerprint="alice")
    granted, refused = carry_out(database, [change, change])
    (later,) = carry_out(database, [change])
    assert granted.code == "granted"
    assert (refused.code, refused.detail) == (later.code, later.detail)
    assert refused.detail == first
