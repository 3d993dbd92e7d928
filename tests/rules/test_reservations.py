"""Whole reservations: found, paid for and cancelled, all of their tickets or none."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.waiting import at_once

pytestmark = pytest.mark.core

UNKNOWN = "018f0000-0000-7000-8000-000000000003"


def held(client: Client, quantity: int = 3) -> tuple[str, str, list[str]]:
    """Reserve tickets of a new event; return event, reservation and tickets."""
    event = client.create_event()
    tickets = client.reserve(event, quantity).json()
    return event, tickets[0]["reservationId"], [ticket["id"] for ticket in tickets]


def test_a_reservation_is_shown_to_its_owner(client: Client) -> None:
    event, reservation, tickets = held(client)
    answer = client.reservation(reservation)
    assert answer.status_code == 200
    shown = answer.json()
    assert list(shown) == ["id", "eventId", "status", "expiresAt", "tickets"]
    assert (shown["id"], shown["eventId"], shown["status"]) == (reservation, event, "reserved")
    assert [ticket["id"] for ticket in shown["tickets"]] == tickets
    assert {ticket["expiresAt"] for ticket in shown["tickets"]} == {shown["expiresAt"]}
    assert {ticket["userFingerprint"] for ticket in shown["tickets"]} == {"alice"}


def test_a_reservation_is_shown_to_nobody_else(client: Client) -> None:
    _, reservation, tickets = held(client)
    answer = client.reservation(reservation, user="mallory")
    assert code(answer) == (403, "WRONG_FINGERPRINT")
    assert answer.json()["details"] == {"ticketId": tickets[0]}
    assert code(client.get(f"/reservations/{reservation}")) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("verb", ["reservation", "pay_reservation", "cancel_reservation"])
def test_an_unknown_reservation_is_not_found(client: Client, verb: str) -> None:
    answer = getattr(client, verb)(UNKNOWN)
    assert code(answer) == (404, "NOT_FOUND")
    assert answer.json()["error"] == "Reservation not found"


def test_a_reservation_is_paid_for_whole(client: Client) -> None:
    event, reservation, tickets = held(client)
    answer = client.pay_reservation(reservation)
    assert answer.status_code == 200
    paid = answer.json()
    assert (paid["status"], paid["expiresAt"]) == ("purchased", None)
    assert [ticket["id"] for ticket in paid["tickets"]] == tickets
    assert client.reservation(reservation).json() == paid
    shown = client.event(event)
    # One version: it was one transaction.
    assert (shown["purchasedTickets"], shown["reservedTickets"], shown["version"]) == (3, 0, 3)


def test_a_reservation_is_cancelled_whole_and_its_tickets_are_free_at_once(client: Client) -> None:
    event, reservation, _ = held(client)
    answer = client.cancel_reservation(reservation)
    assert answer.status_code == 200
    assert {ticket["status"] for ticket in answer.json()["tickets"]} == {"user_cancelled"}
    shown = client.event(event)
    assert (shown["availableTickets"], shown["version"]) == (10, 3)


@pytest.mark.parametrize(
    ("verb", "after"),
    [
        ("pay", (409, "ALREADY_PURCHASED")),
        ("cancel", (409, "ALREADY_CANCELLED")),
        ("refund", (409, "ALREADY_REFUNDED")),
        ("lapse", (410, "HOLD_EXPIRED")),
    ],
)
@pytest.mark.parametrize("whole", ["pay_reservation", "cancel_reservation"])
def test_one_ticket_in_the_way_stops_the_whole(
    client: Client, database: Database, verb: str, after: tuple[int, str], whole: str
) -> None:
    event, reservation, tickets = held(client)
    for ticket in tickets[1:]:
        if verb == "lapse":
            database.lapse(ticket)
            continue
        if verb == "refund":
            client.pay(ticket)
        getattr(client, verb)(ticket, *(["alice"] if verb != "refund" else []))
    refused = getattr(client, whole)(reservation)
    assert code(refused) == after
    assert refused.json()["details"] == {"ticketId": tickets[1]}
    assert client.ticket(tickets[0]).json()["status"] == "reserved"
    assert client.reservation(reservation).json()["status"] == "mixed"
    # Each can go its way on its own.
    assert client.pay(tickets[0]).status_code == 200
    assert client.event(event)["purchasedTickets"] == (3 if verb == "pay" else 1)


def test_who_is_not_the_owner_is_told_so_whatever_the_state(client: Client) -> None:
    _, reservation, tickets = held(client)
    client.pay(tickets[0])
    for verb in (client.pay_reservation, client.cancel_reservation):
        answer = verb(reservation, user="mallory")
        assert code(answer) == (403, "WRONG_FINGERPRINT")
        assert "alice" not in answer.text
    assert client.reservation(reservation).json()["status"] == "mixed"


def test_a_ticket_of_somebody_else_is_in_the_way_before_any_other(
    client: Client, database: Database
) -> None:
    _, reservation, tickets = held(client)
    client.pay(tickets[0])
    database.psql(
        f"update ticket_allocations set user_fingerprint = 'bob' where id = '{tickets[2]}'"
    )
    answer = client.pay_reservation(reservation)
    assert code(answer) == (403, "WRONG_FINGERPRINT")
    assert answer.json()["details"] == {"ticketId": tickets[2]}


def test_the_end_of_a_mixed_reservation_is_the_earliest_of_what_is_held(
    client: Client, database: Database
) -> None:
    _, reservation, tickets = held(client)
    client.cancel(tickets[0])
    database.psql(
        "update ticket_allocations set expires_at = '2040-01-01' where status = 'reserved';"
        f"update ticket_allocations set expires_at = '2039-01-01' where id = '{tickets[2]}'"
    )
    assert client.reservation(reservation).json()["expiresAt"] == "2039-01-01T00:00:00Z"
    client.pay(tickets[1])
    client.cancel(tickets[2])
    assert client.reservation(reservation).json()["expiresAt"] is None


def test_of_many_who_take_a_reservation_at_once_one_wins(client: Client) -> None:
    event, reservation, _ = held(client)
    answers = at_once(
        *[partial(client.pay_reservation, reservation)] * 10,
        *[partial(client.cancel_reservation, reservation)] * 10,
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    status = client.reservation(reservation).json()["status"]
    taken = {"purchased": (3, 7), "user_cancelled": (0, 10)}[status]
    shown = client.event(event)
    assert (shown["purchasedTickets"], shown["availableTickets"]) == taken


def test_of_a_reservation_and_one_of_its_tickets_at_once_one_wins(client: Client) -> None:
    for _ in range(10):
        event = client.create_event(name=f"event {_}")
        tickets = client.reserve(event, 2).json()
        whole, single = at_once(
            partial(client.pay_reservation, tickets[0]["reservationId"]),
            partial(client.cancel, tickets[1]["id"]),
        )
        assert sorted([whole.status_code, single.status_code]) == [200, 409]
        assert client.event(event)["purchasedTickets"] == (2 if whole.status_code == 200 else 0)


def test_a_reservation_that_runs_out_while_its_payment_waits_is_not_sold(
    client: Client, database: Database
) -> None:
    event, reservation, tickets = held(client)
    with ThreadPoolExecutor(1) as pool:
        with database.holding(event) as rival:
            paying = pool.submit(client.pay_reservation, reservation)
            database.wait_until_blocked()
            rival.execute(
                "update ticket_allocations set expires_at = clock_timestamp() where position = 3"
            )
        answer = paying.result()
    assert code(answer) == (410, "HOLD_EXPIRED")
    assert answer.json()["details"] == {"ticketId": tickets[2]}
    assert client.event(event)["purchasedTickets"] == 0
