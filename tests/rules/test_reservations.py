"""Reservations: found, paid for and cancelled as what is left of them."""

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
    response = client.find_reservation(reservation)
    assert response.status_code == 200
    shown = response.json()
    assert list(shown) == ["id", "eventId", "status", "expiresAt", "tickets"]
    assert (shown["id"], shown["eventId"], shown["status"]) == (reservation, event, "reserved")
    assert [ticket["id"] for ticket in shown["tickets"]] == tickets
    assert {ticket["expiresAt"] for ticket in shown["tickets"]} == {shown["expiresAt"]}
    assert {ticket["userFingerprint"] for ticket in shown["tickets"]} == {"alice"}


def test_a_reservation_is_not_shown_to_another_user(client: Client) -> None:
    _, reservation, tickets = held(client)
    response = client.find_reservation(reservation, user="mallory")
    assert code(response) == (403, "WRONG_FINGERPRINT")
    assert response.json()["details"] == {"ticketId": tickets[0]}
    assert code(client.get(f"/reservations/{reservation}")) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("verb", ["find_reservation", "pay_reservation", "cancel_reservation"])
def test_an_unknown_reservation_is_not_found(client: Client, verb: str) -> None:
    response = getattr(client, verb)(UNKNOWN)
    assert code(response) == (404, "NOT_FOUND")
    assert response.json()["error"] == "Reservation not found"


def test_a_payment_pays_for_the_whole_reservation(client: Client) -> None:
    event, reservation, tickets = held(client)
    response = client.pay_reservation(reservation)
    assert response.status_code == 200
    paid = response.json()
    assert (paid["status"], paid["expiresAt"]) == ("purchased", None)
    assert [ticket["id"] for ticket in paid["tickets"]] == tickets
    assert client.find_reservation(reservation).json() == paid
    shown = client.find_event(event)
    # One version: it was one transaction.
    assert (shown["purchasedTickets"], shown["reservedTickets"], shown["version"]) == (3, 0, 3)


def test_a_cancelled_reservation_makes_all_its_tickets_available(client: Client) -> None:
    event, reservation, _ = held(client)
    response = client.cancel_reservation(reservation)
    assert response.status_code == 200
    assert {ticket["status"] for ticket in response.json()["tickets"]} == {"user_cancelled"}
    shown = client.find_event(event)
    assert (shown["availableTickets"], shown["version"]) == (10, 3)


def change_two(client: Client, database: Database, tickets: list[str], verb: str) -> None:
    """Let the second and the third ticket of a reservation of three go another way."""
    for ticket in tickets[1:]:
        if verb == "lapse":
            database.expire_hold(ticket)
        elif verb == "refund":
            client.pay(ticket)
            client.refund(ticket)
        else:
            getattr(client, verb)(ticket)


@pytest.mark.parametrize(
    ("whole", "verb", "code_"),
    [
        ("pay_reservation", "lapse", (410, "HOLD_EXPIRED")),
        ("cancel_reservation", "pay", (409, "ALREADY_PURCHASED")),
    ],
)
def test_one_ticket_can_block_the_whole_reservation(
    client: Client, database: Database, whole: str, verb: str, code_: tuple[int, str]
) -> None:
    _, reservation, tickets = held(client)
    change_two(client, database, tickets, verb)
    refused = getattr(client, whole)(reservation)
    assert code(refused) == code_
    assert refused.json()["details"] == {"ticketId": tickets[1]}
    assert client.find_ticket(tickets[0]).json()["status"] == "reserved"
    assert client.find_reservation(reservation).json()["status"] == "mixed"
    # Its one held ticket can be paid for alone.
    assert client.pay(tickets[0]).status_code == 200


@pytest.mark.parametrize(
    ("whole", "verb", "statuses"),
    [
        ("pay_reservation", "pay", ["purchased"] * 3),
        ("pay_reservation", "cancel", ["purchased", "user_cancelled", "user_cancelled"]),
        ("pay_reservation", "refund", ["purchased", "refunded", "refunded"]),
        ("cancel_reservation", "cancel", ["user_cancelled"] * 3),
        ("cancel_reservation", "refund", ["user_cancelled", "refunded", "refunded"]),
        ("cancel_reservation", "lapse", ["user_cancelled", "expired", "expired"]),
    ],
)
def test_the_held_tickets_of_a_reservation_are_paid_or_cancelled(
    client: Client, database: Database, whole: str, verb: str, statuses: list[str]
) -> None:
    event, reservation, tickets = held(client)
    change_two(client, database, tickets, verb)
    response = getattr(client, whole)(reservation)
    assert response.status_code == 200
    shown = response.json()["tickets"]
    assert [(ticket["id"], ticket["status"]) for ticket in shown] == list(
        zip(tickets, statuses, strict=True)
    )
    assert client.find_reservation(reservation).json() == response.json()
    moved = client.list_ledger(event).json()["data"][-1]
    assert moved["purchased"] + moved["cancelled"] == 1
    # Nothing is left now: a repeat says what became of it.
    assert getattr(client, whole)(reservation).status_code == (409 if verb != "lapse" else 410)


def test_a_reservation_without_holds_is_refused_for_its_first_ticket(
    client: Client, database: Database
) -> None:
    _, reservation, tickets = held(client)
    client.pay(tickets[0])
    client.refund(tickets[0])
    for ticket in tickets[1:]:
        client.cancel(ticket)
    for whole in (client.pay_reservation, client.cancel_reservation):
        refused = whole(reservation)
        assert code(refused) == (409, "ALREADY_REFUNDED")
        assert refused.json()["details"] == {"ticketId": tickets[0]}


def test_another_user_is_refused_whatever_the_reservations_status(client: Client) -> None:
    _, reservation, tickets = held(client)
    client.pay(tickets[0])
    for verb in (client.pay_reservation, client.cancel_reservation):
        response = verb(reservation, user="mallory")
        assert code(response) == (403, "WRONG_FINGERPRINT")
        assert "alice" not in response.text
    assert client.find_reservation(reservation).json()["status"] == "mixed"


def test_each_of_two_owners_sees_and_pays_for_only_their_own_tickets(
    client: Client, database: Database
) -> None:
    event, reservation, tickets = held(client)
    database.psql(
        f"update ticket_allocations set user_fingerprint = 'bobby' where id = '{tickets[1]}'"
    )
    for user, own in (("alice", [tickets[0], tickets[2]]), ("bobby", [tickets[1]])):
        seen = client.find_reservation(reservation, user).json()["tickets"]
        assert [ticket["id"] for ticket in seen] == own
    assert code(client.find_reservation(reservation, "carol")) == (403, "WRONG_FINGERPRINT")
    paid = client.pay_reservation(reservation, "bobby").json()
    assert [ticket["id"] for ticket in paid["tickets"]] == [tickets[1]]
    assert client.find_event(event)["purchasedTickets"] == 1
    assert client.cancel_reservation(reservation).status_code == 200
    assert client.find_event(event)["allocatedTickets"] == 1


def test_a_mixed_reservation_ends_when_its_first_hold_ends(
    client: Client, database: Database
) -> None:
    _, reservation, tickets = held(client)
    client.cancel(tickets[0])
    database.psql(
        "update ticket_allocations set expires_at = '2040-01-01' where status = 'reserved';"
        f"update ticket_allocations set expires_at = '2039-01-01' where id = '{tickets[2]}'"
    )
    assert client.find_reservation(reservation).json()["expiresAt"] == "2039-01-01T00:00:00Z"
    client.pay(tickets[1])
    client.cancel(tickets[2])
    assert client.find_reservation(reservation).json()["expiresAt"] is None


def test_one_of_many_concurrent_changes_of_a_reservation_wins(client: Client) -> None:
    event, reservation, _ = held(client)
    responses = at_once(
        *[partial(client.pay_reservation, reservation)] * 10,
        *[partial(client.cancel_reservation, reservation)] * 10,
    )
    assert sorted(response.status_code for response in responses) == [200] + [409] * 19
    status = client.find_reservation(reservation).json()["status"]
    taken = {"purchased": (3, 7), "user_cancelled": (0, 10)}[status]
    shown = client.find_event(event)
    assert (shown["purchasedTickets"], shown["availableTickets"]) == taken


def test_concurrent_payment_and_cancellation_never_both_succeed(client: Client) -> None:
    for n in range(10):
        event = client.create_event(name=f"event {n}")
        tickets = client.reserve(event, 2).json()
        whole, single = at_once(
            partial(client.pay_reservation, tickets[0]["reservationId"]),
            partial(client.cancel, tickets[1]["id"]),
        )
        assert whole.status_code == 200
        assert single.status_code in (200, 409)
        assert client.find_event(event)["purchasedTickets"] == (
            1 if single.status_code == 200 else 2
        )


def test_a_reservation_that_expires_while_its_payment_waits_is_not_sold(
    client: Client, database: Database
) -> None:
    event, reservation, tickets = held(client)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            paying = pool.submit(client.pay_reservation, reservation)
            database.wait_until_blocked()
            rival.execute(
                "update ticket_allocations set expires_at = clock_timestamp() where position = 3"
            )
        response = paying.result()
    assert code(response) == (410, "HOLD_EXPIRED")
    assert response.json()["details"] == {"ticketId": tickets[2]}
    assert client.find_event(event)["purchasedTickets"] == 0
