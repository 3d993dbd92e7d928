"""Refunds: a purchase is refunded once, and its ticket is available again or taken off sale."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.rows import Uuid
from service.write_path.changes import Pay, Refund
from tests.support.batches import carry_out, outcome_codes, reserve
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService
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


def buy(client: Client, event: str, quantity: int) -> tuple[str, list[str]]:
    """Buy tickets; return the reservation and its tickets."""
    tickets = client.reserve(event, quantity).json()
    reservation = tickets[0]["reservationId"]
    client.pay_reservation(reservation).raise_for_status()
    return reservation, [ticket["id"] for ticket in tickets]


def test_a_refund_without_resale_shrinks_the_event(client: Client) -> None:
    event = client.create_event(tickets=3)
    _, (first, second) = buy(client, event, 2)
    before = client.find_event(event)
    assert client.refund(first, resale=False).json()["status"] == "refunded"
    after = client.find_event(event)
    assert (after["totalTickets"], after["allocatedTickets"], after["availableTickets"]) == (
        2,
        1,
        1,
    )
    assert (after["version"], after["revision"]) == (before["version"] + 1, 2)
    last = client.get(f"/events/{event}/ledger").json()["data"][-1]
    assert (last["totalTickets"], last["refunded"], last["lastEvent"]["type"]) == (2, 1, "refunded")
    # A repeat takes nothing more.
    assert code(client.refund(first, resale=False)) == (409, "ALREADY_REFUNDED")
    assert client.refund(second, resale=True).status_code == 200
    resold = client.find_event(event)
    assert (resold["totalTickets"], resold["revision"]) == (2, 2)


def test_an_event_keeps_its_last_ticket(client: Client) -> None:
    event = client.create_event(tickets=2)
    reservation, (first, second) = buy(client, event, 2)
    refused = client.refund_reservation(reservation, resale=False)
    assert code(refused) == (409, "CAPACITY_BELOW_ALLOCATED")
    assert refused.json()["details"] == {"allocatedTickets": 2}
    assert client.refund(first, resale=False).status_code == 200
    assert code(client.refund(second, resale=False)) == (409, "CAPACITY_BELOW_ALLOCATED")
    assert client.refund(second).status_code == 200
    assert client.find_event(event)["availableTickets"] == 1


def test_a_batch_leaves_the_event_one_ticket(
    client: Client, database: Database, service: RunningService
) -> None:
    event = client.create_event(tickets=3)
    _, tickets = buy(client, event, 3)
    with ThreadPoolExecutor(3) as pool:
        with database.lock_event(event):
            refunds = [pool.submit(client.refund, ticket, resale=False) for ticket in tickets]
            service.wait_until_accepted(3)
        statuses = sorted(refund.result().status_code for refund in refunds)
    assert statuses == [200, 200, 409]
    assert client.find_event(event)["totalTickets"] == 1


def purchase(database: Database, tickets: int, name: str) -> Uuid:
    """Purchase a ticket of a new event with so many tickets, and return the ticket's id."""
    (held,) = carry_out(database, [reserve(Uuid(database.insert_event(tickets, name)))])
    ticket = held.tickets[0].id
    carry_out(database, [Pay(ticket_id=ticket, user_fingerprint="alice")])
    return ticket


def test_refunds_of_two_events_in_a_batch_do_not_share_the_last_ticket(database: Database) -> None:
    tickets = [purchase(database, tickets=2, name=name) for name in ("One", "Two")]
    refunds = [Refund(ticket_id=ticket, resale=False) for ticket in tickets]
    assert outcome_codes(carry_out(database, refunds)) == ["granted"] * 2


def test_a_refund_behind_a_refused_one_is_busy(database: Database) -> None:
    """It may be tried again: alone it succeeds."""
    ticket = purchase(database, tickets=1, name="One")
    refunds = [Refund(ticket_id=ticket, resale=resale) for resale in (False, True)]
    assert outcome_codes(carry_out(database, refunds)) == ["capacity_below_allocated", "busy"]
    assert outcome_codes(carry_out(database, refunds[1:])) == ["granted"]


def test_a_reservation_is_refunded_as_what_is_purchased_of_it(client: Client) -> None:
    event = client.create_event(tickets=5)
    tickets = client.reserve(event, 4).json()
    ids, reservation = [ticket["id"] for ticket in tickets], tickets[0]["reservationId"]
    assert code(client.refund_reservation(reservation)) == (409, "NOT_PURCHASED")
    for id_ in ids[:3]:
        client.pay(id_).raise_for_status()
    client.refund(ids[0]).raise_for_status()
    response = client.refund_reservation(reservation)
    statuses = [ticket["status"] for ticket in response.json()["tickets"]]
    assert statuses == ["refunded", "refunded", "refunded", "reserved"]
    assert response.json()["status"] == "mixed"
    assert "userFingerprint" not in response.text
    counts = client.find_event(event)
    assert (counts["totalTickets"], counts["allocatedTickets"]) == (5, 1)
    assert code(client.refund_reservation(reservation)) == (409, "ALREADY_REFUNDED")
    unknown = "018f0000-0000-7000-8000-000000000001"
    assert code(client.refund_reservation(unknown)) == (404, "NOT_FOUND")


def test_a_ticket_and_its_reservation_are_refunded_once(
    client: Client, database: Database, service: RunningService
) -> None:
    event = client.create_event(tickets=5)
    reservation, (first, *_) = buy(client, event, 3)
    with ThreadPoolExecutor(3) as pool:
        with database.lock_event(event):
            one = pool.submit(client.refund, first)
            service.wait_until_accepted(1)
            rest = pool.submit(client.refund_reservation, reservation, resale=False)
            service.wait_until_accepted(2)
            again = pool.submit(client.refund, first, resale=False)
            service.wait_until_accepted(3)
        assert one.result().status_code == 200
        assert {ticket["status"] for ticket in rest.result().json()["tickets"]} == {"refunded"}
        assert code(again.result()) == (409, "ALREADY_REFUNDED")
    assert client.find_event(event)["totalTickets"] == 3


@pytest.mark.parametrize("body", [{"resale": "no"}, {"resale": None}, {"other": True}, []])
def test_a_bad_body_of_a_refund_is_refused(client: Client, body: object) -> None:
    _, (ticket,) = buy(client, client.create_event(), 1)
    response = client.post(f"/events/tickets/{ticket}/refund", json=body)
    assert code(response) == (400, "BAD_REQUEST")
    assert client.find_ticket(ticket).json()["status"] == "purchased"
