"""Cancelling: by the owner alone; the ticket is free again at once, exactly once."""

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.waiting import at_once

pytestmark = pytest.mark.core


def test_a_cancelled_ticket_is_free_at_once(client: Client) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    answer = client.cancel(ticket)
    assert (answer.status_code, answer.json()["status"]) == (200, "user_cancelled")
    assert answer.json()["expiresAt"] is not None
    assert client.reserve(event, user="bob").status_code == 201


def test_twenty_cancels_of_one_hold_free_one_ticket(client: Client) -> None:
    event = client.create_event(tickets=5)
    first, _ = client.hold(event, quantity=2)
    answers = at_once(*[lambda: client.cancel(first)] * 20)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    refusals = {code(answer) for answer in answers if answer.status_code == 409}
    assert refusals == {(409, "ALREADY_CANCELLED")}
    assert client.find_event(event)["availableTickets"] == 4


def test_another_fingerprint_cancels_nothing(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    assert code(client.cancel(ticket, user="mallory")) == (403, "WRONG_FINGERPRINT")
    assert client.find_ticket(ticket).json()["status"] == "reserved"


def test_a_purchase_is_not_cancelled(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    client.pay(ticket)
    answer = client.cancel(ticket)
    assert code(answer) == (409, "ALREADY_PURCHASED")
    assert answer.json()["error"] == "Can only cancel reserved tickets"


def test_a_lapsed_hold_is_not_cancelled(client: Client, database: Database) -> None:
    (ticket,) = client.hold(client.create_event())
    database.expire_hold(ticket)
    assert code(client.cancel(ticket)) == (410, "HOLD_EXPIRED")


def test_a_refund_is_not_cancelled(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    client.pay(ticket)
    client.refund(ticket)
    assert code(client.cancel(ticket)) == (409, "ALREADY_REFUNDED")


def test_without_a_fingerprint_nothing_is_cancelled(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    answer = client.delete(f"/events/tickets/{ticket}/payment")
    assert code(answer) == (400, "BAD_REQUEST")
    assert client.find_ticket(ticket).json()["status"] == "reserved"


def test_an_unknown_ticket_is_not_cancelled(client: Client) -> None:
    assert code(client.cancel("018f0000-0000-7000-8000-000000000002")) == (404, "NOT_FOUND")
