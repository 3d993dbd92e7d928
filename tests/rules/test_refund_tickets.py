"""Refunds: a purchase is refunded once, and its ticket is available again."""

import pytest

from tests.support.client import Client, code
from tests.support.waiting import at_once

pytestmark = pytest.mark.core


def test_a_refunded_ticket_is_available_at_once(client: Client) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    client.pay(ticket)
    response = client.refund(ticket)
    assert (response.status_code, response.json()["status"]) == (200, "refunded")
    assert "userFingerprint" not in response.json()
    counts = client.find_event(event)
    assert (counts["availableTickets"], counts["purchasedTickets"]) == (1, 0)
    assert client.reserve(event, user="bob").status_code == 201


def test_twenty_refunds_of_one_purchase_return_one_ticket(client: Client) -> None:
    event = client.create_event(tickets=3)
    first, second = client.hold(event, quantity=2)
    client.pay(first)
    client.pay(second)
    responses = at_once(*[lambda: client.refund(first)] * 20)
    assert sorted(response.status_code for response in responses) == [200] + [409] * 19
    assert code(client.refund(first)) == (409, "ALREADY_REFUNDED")
    assert client.find_event(event)["purchasedTickets"] == 1


def test_a_ticket_that_is_not_purchased_is_not_refunded(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    assert code(client.refund(ticket)) == (409, "NOT_PURCHASED")
    client.cancel(ticket)
    assert code(client.refund(ticket)) == (409, "NOT_PURCHASED")


def test_an_unknown_ticket_is_not_refunded(client: Client) -> None:
    assert code(client.refund("018f0000-0000-7000-8000-000000000002")) == (404, "NOT_FOUND")
