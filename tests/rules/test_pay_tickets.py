"""Paying: by the owner alone, once, and while the hold lasts."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.waiting import at_once

pytestmark = pytest.mark.core

UNKNOWN = "018f0000-0000-7000-8000-000000000002"


def test_a_paid_ticket_is_purchased_and_has_no_end(client: Client) -> None:
    event = client.create_event(tickets=2)
    (ticket,) = client.hold(event)
    answer = client.pay(ticket)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["expiresAt"]) == ("purchased", None)
    assert answer.json()["userFingerprint"] == "alice"
    shown = client.find_event(event)
    assert (shown["purchasedTickets"], shown["reservedTickets"]) == (1, 0)
    assert (shown["availableTickets"], shown["version"]) == (1, 3)


def test_another_fingerprint_pays_for_nothing(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    answer = client.pay(ticket, user="mallory")
    assert code(answer) == (403, "WRONG_FINGERPRINT")
    assert answer.json()["error"] == "Invalid user fingerprint"
    assert client.find_ticket(ticket).json()["status"] == "reserved"
    assert "alice" not in answer.text


def test_a_ticket_is_paid_for_once(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    answers = at_once(*[lambda: client.pay(ticket)] * 20)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    answer = client.pay(ticket)
    assert code(answer) == (409, "ALREADY_PURCHASED")
    assert answer.json()["error"] == "Invalid allocation status"


def test_a_lapsed_hold_cannot_be_paid_for(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    database.expire_hold(ticket)
    answer = client.pay(ticket)
    assert code(answer) == (410, "HOLD_EXPIRED")
    assert answer.json()["error"] == "Ticket allocation has expired"
    assert client.find_event(event)["availableTickets"] == 1
    assert code(client.pay(ticket)) == (410, "HOLD_EXPIRED")


def test_a_hold_that_runs_out_while_its_payment_waits_is_not_sold(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            paying = pool.submit(client.pay, ticket)
            database.wait_until_blocked()
            # It ends now: after the payment's transaction began, before it has the lock.
            rival.execute("update ticket_allocations set expires_at = clock_timestamp()")
        assert code(paying.result()) == (410, "HOLD_EXPIRED")
    assert client.find_event(event)["purchasedTickets"] == 0


def test_of_payment_and_cancel_at_once_one_wins(client: Client) -> None:
    event = client.create_event(tickets=20)
    for ticket in client.hold(event, quantity=10):
        paid, cancelled = at_once(partial(client.pay, ticket), partial(client.cancel, ticket))
        assert sorted([paid.status_code, cancelled.status_code]) == [200, 409]
        status = client.find_ticket(ticket).json()["status"]
        assert status == ("purchased" if paid.status_code == 200 else "user_cancelled")


def test_an_unknown_ticket_cannot_be_paid_for(client: Client) -> None:
    answer = client.pay(UNKNOWN)
    assert code(answer) == (404, "NOT_FOUND")
    assert answer.json()["error"] == "Ticket allocation not found"


@pytest.mark.parametrize("end", ["cancel", "refund"])
def test_a_ticket_that_came_back_cannot_be_paid_for(client: Client, end: str) -> None:
    (ticket,) = client.hold(client.create_event())
    if end == "cancel":
        client.cancel(ticket)
        assert code(client.pay(ticket)) == (409, "ALREADY_CANCELLED")
    else:
        client.pay(ticket)
        client.refund(ticket)
        assert code(client.pay(ticket)) == (409, "ALREADY_REFUNDED")


def test_who_is_not_the_owner_is_told_so_whatever_the_state(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    client.cancel(ticket)
    assert code(client.pay(ticket, user="mallory")) == (403, "WRONG_FINGERPRINT")
    assert code(client.cancel(ticket, user="mallory")) == (403, "WRONG_FINGERPRINT")
