"""Payment: only by the owner, only once, and only until the hold expires."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.waiting import at_once

pytestmark = pytest.mark.core

UNKNOWN = "018f0000-0000-7000-8000-000000000002"


def test_a_paid_ticket_is_purchased_and_never_expires(client: Client) -> None:
    event = client.create_event(tickets=2)
    (ticket,) = client.hold(event)
    response = client.pay(ticket)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["expiresAt"]) == ("purchased", None)
    assert response.json()["userFingerprint"] == "alice"
    counts = client.find_event(event)
    assert (counts["purchasedTickets"], counts["reservedTickets"]) == (1, 0)
    assert (counts["availableTickets"], counts["version"]) == (1, 3)


def test_another_user_cannot_pay_for_a_ticket(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    response = client.pay(ticket, user="mallory")
    assert code(response) == (403, "WRONG_FINGERPRINT")
    assert response.json()["error"] == "Invalid user fingerprint"
    assert client.find_ticket(ticket).json()["status"] == "reserved"
    assert "alice" not in response.text


def test_a_ticket_is_paid_only_once(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    responses = at_once(*[lambda: client.pay(ticket)] * 20)
    assert sorted(response.status_code for response in responses) == [200] + [409] * 19
    response = client.pay(ticket)
    assert code(response) == (409, "ALREADY_PURCHASED")
    assert response.json()["error"] == "Invalid allocation status"


def test_an_expired_hold_cannot_be_paid(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    database.expire_hold(ticket)
    response = client.pay(ticket)
    assert code(response) == (410, "HOLD_EXPIRED")
    assert response.json()["error"] == "Ticket allocation has expired"
    assert client.find_event(event)["availableTickets"] == 1
    assert code(client.pay(ticket)) == (410, "HOLD_EXPIRED")


def test_a_hold_that_expires_while_its_payment_waits_is_not_sold(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            payment = pool.submit(client.pay, ticket)
            database.wait_until_blocked()
            # The hold ends after the payment's transaction has begun and before it has the lock.
            rival.execute("update ticket_allocations set expires_at = statement_timestamp()")
        assert code(payment.result()) == (410, "HOLD_EXPIRED")
    assert client.find_event(event)["purchasedTickets"] == 0


def test_one_of_concurrent_payment_and_cancellation_wins(client: Client) -> None:
    event = client.create_event(tickets=20)
    for ticket in client.hold(event, quantity=10):
        paid, cancelled = at_once(partial(client.pay, ticket), partial(client.cancel, ticket))
        assert sorted([paid.status_code, cancelled.status_code]) == [200, 409]
        status = client.find_ticket(ticket).json()["status"]
        assert status == ("purchased" if paid.status_code == 200 else "user_cancelled")


def test_an_unknown_ticket_cannot_be_paid(client: Client) -> None:
    response = client.pay(UNKNOWN)
    assert code(response) == (404, "NOT_FOUND")
    assert response.json()["error"] == "Ticket allocation not found"


@pytest.mark.parametrize("end", ["cancel", "refund"])
def test_a_cancelled_or_refunded_ticket_cannot_be_paid(client: Client, end: str) -> None:
    (ticket,) = client.hold(client.create_event())
    if end == "cancel":
        client.cancel(ticket)
        assert code(client.pay(ticket)) == (409, "ALREADY_CANCELLED")
    else:
        client.pay(ticket)
        client.refund(ticket)
        assert code(client.pay(ticket)) == (409, "ALREADY_REFUNDED")


def test_another_user_is_refused_whatever_the_tickets_status(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    client.cancel(ticket)
    assert code(client.pay(ticket, user="mallory")) == (403, "WRONG_FINGERPRINT")
    assert code(client.cancel(ticket, user="mallory")) == (403, "WRONG_FINGERPRINT")
