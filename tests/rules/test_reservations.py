"""Reservations: finding, payment and cancellation of the tickets that are still held."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.waiting import at_once

pytestmark = pytest.mark.core

UNKNOWN = "018f0000-0000-7000-8000-000000000003"


def reserve(client: Client, quantity: int = 3) -> tuple[str, str, list[str]]:
    """Reserve tickets of a new event; return the ids of event, reservation and tickets."""
    event = client.create_event()
    tickets = client.reserve(event, quantity).json()
    return event, tickets[0]["reservationId"], [ticket["id"] for ticket in tickets]


def test_a_reservation_is_shown_to_its_owner(client: Client) -> None:
    event, reservation, tickets = reserve(client)
    response = client.find_reservation(reservation)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["id", "eventId", "status", "expiresAt", "tickets"]
    assert (body["id"], body["eventId"], body["status"]) == (reservation, event, "reserved")
    assert [ticket["id"] for ticket in body["tickets"]] == tickets
    assert {ticket["expiresAt"] for ticket in body["tickets"]} == {body["expiresAt"]}
    assert {ticket["userFingerprint"] for ticket in body["tickets"]} == {"alice"}


def test_a_reservation_is_not_shown_to_another_user(client: Client) -> None:
    _, reservation, tickets = reserve(client)
    response = client.find_reservation(reservation, user="mallory")
    assert code(response) == (403, "WRONG_FINGERPRINT")
    assert response.json()["details"] == {"ticketId": tickets[0]}
    assert code(client.get(f"/reservations/{reservation}")) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("method", ["find_reservation", "pay_reservation", "cancel_reservation"])
def test_an_unknown_reservation_is_not_found(client: Client, method: str) -> None:
    response = getattr(client, method)(UNKNOWN)
    assert code(response) == (404, "NOT_FOUND")
    assert response.json()["error"] == "Reservation not found"


def test_a_payment_pays_for_the_whole_reservation(client: Client) -> None:
    event, reservation, tickets = reserve(client)
    response = client.pay_reservation(reservation)
    assert response.status_code == 200
    paid = response.json()
    assert (paid["status"], paid["expiresAt"]) == ("purchased", None)
    assert [ticket["id"] for ticket in paid["tickets"]] == tickets
    assert client.find_reservation(reservation).json() == paid
    counts = client.find_event(event)
    # The payment was one transaction, so one version.
    assert (counts["purchasedTickets"], counts["reservedTickets"], counts["version"]) == (3, 0, 3)


def test_a_cancelled_reservation_makes_all_its_tickets_available(client: Client) -> None:
    event, reservation, _ = reserve(client)
    response = client.cancel_reservation(reservation)
    assert response.status_code == 200
    assert {ticket["status"] for ticket in response.json()["tickets"]} == {"user_cancelled"}
    counts = client.find_event(event)
    assert (counts["availableTickets"], counts["version"]) == (10, 3)


def change_two(client: Client, database: Database, tickets: list[str], change: str) -> None:
    """Expire, pay, cancel or refund the second and the third ticket of a reservation of three."""
    for ticket in tickets[1:]:
        if change == "expire":
            database.expire_hold(ticket)
        elif change == "refund":
            client.pay(ticket)
            client.refund(ticket)
        else:
            getattr(client, change)(ticket)


@pytest.mark.parametrize(
    ("method", "change", "refusal"),
    [
        ("pay_reservation", "expire", (410, "HOLD_EXPIRED")),
        ("cancel_reservation", "pay", (409, "ALREADY_PURCHASED")),
    ],
)
def test_one_ticket_can_block_the_whole_reservation(
    client: Client, database: Database, method: str, change: str, refusal: tuple[int, str]
) -> None:
    _, reservation, tickets = reserve(client)
    change_two(client, database, tickets, change)
    response = getattr(client, method)(reservation)
    assert code(response) == refusal
    assert response.json()["details"] == {"ticketId": tickets[1]}
    assert client.find_ticket(tickets[0]).json()["status"] == "reserved"
    assert client.find_reservation(reservation).json()["status"] == "mixed"
    # The ticket that is still held can be paid for alone.
    assert client.pay(tickets[0]).status_code == 200


@pytest.mark.parametrize(
    ("method", "change", "statuses"),
    [
        ("pay_reservation", "pay", ["purchased"] * 3),
        ("pay_reservation", "cancel", ["purchased", "user_cancelled", "user_cancelled"]),
        ("pay_reservation", "refund", ["purchased", "refunded", "refunded"]),
        ("cancel_reservation", "cancel", ["user_cancelled"] * 3),
        ("cancel_reservation", "refund", ["user_cancelled", "refunded", "refunded"]),
        ("cancel_reservation", "expire", ["user_cancelled", "expired", "expired"]),
    ],
)
def test_the_held_tickets_of_a_reservation_are_paid_or_cancelled(
    client: Client, database: Database, method: str, change: str, statuses: list[str]
) -> None:
    event, reservation, tickets = reserve(client)
    change_two(client, database, tickets, change)
    response = getattr(client, method)(reservation)
    assert response.status_code == 200
    after = [(ticket["id"], ticket["status"]) for ticket in response.json()["tickets"]]
    assert after == list(zip(tickets, statuses, strict=True))
    assert client.find_reservation(reservation).json() == response.json()
    last_entry = client.list_ledger(event).json()["data"][-1]
    assert last_entry["purchased"] + last_entry["cancelled"] == 1
    # No ticket is held any more, so the same request is refused.
    status = 410 if change == "expire" else 409
    assert getattr(client, method)(reservation).status_code == status


def test_a_reservation_without_holds_is_refused_for_its_first_ticket(
    client: Client, database: Database
) -> None:
    _, reservation, tickets = reserve(client)
    client.pay(tickets[0])
    client.refund(tickets[0])
    for ticket in tickets[1:]:
        client.cancel(ticket)
    for change in (client.pay_reservation, client.cancel_reservation):
        response = change(reservation)
        assert code(response) == (409, "ALREADY_REFUNDED")
        assert response.json()["details"] == {"ticketId": tickets[0]}


def test_another_user_is_refused_whatever_the_reservations_status(client: Client) -> None:
    _, reservation, tickets = reserve(client)
    client.pay(tickets[0])
    for change in (client.pay_reservation, client.cancel_reservation):
        response = change(reservation, user="mallory")
        assert code(response) == (403, "WRONG_FINGERPRINT")
        assert "alice" not in response.text
    assert client.find_reservation(reservation).json()["status"] == "mixed"


def test_each_of_two_owners_sees_and_pays_for_only_their_own_tickets(
    client: Client, database: Database
) -> None:
    event, reservation, tickets = reserve(client)
    database.psql(
        f"update ticket_allocations set user_fingerprint = 'bobby' where id = '{tickets[1]}'"
    )
    for user, own in (("alice", [tickets[0], tickets[2]]), ("bobby", [tickets[1]])):
        visible = client.find_reservation(reservation, user).json()["tickets"]
        assert [ticket["id"] for ticket in visible] == own
    assert code(client.find_reservation(reservation, "carol")) == (403, "WRONG_FINGERPRINT")
    paid = client.pay_reservation(reservation, "bobby").json()
    assert [ticket["id"] for ticket in paid["tickets"]] == [tickets[1]]
    assert client.find_event(event)["purchasedTickets"] == 1
    assert client.cancel_reservation(reservation).status_code == 200
    assert client.find_event(event)["allocatedTickets"] == 1


def test_a_cancellation_leaves_the_tickets_of_another_owner(
    client: Client, database: Database
) -> None:
    event, reservation, tickets = reserve(client)
    database.psql(
        f"update ticket_allocations set user_fingerprint = 'bobby' where id = '{tickets[1]}'"
    )
    cancelled = client.cancel_reservation(reservation).json()["tickets"]
    assert [ticket["id"] for ticket in cancelled] == [tickets[0], tickets[2]]
    assert client.find_event(event)["allocatedTickets"] == 1
    assert client.pay(tickets[1], "bobby").status_code == 200


def test_a_mixed_reservation_ends_when_its_first_hold_ends(
    client: Client, database: Database
) -> None:
    _, reservation, tickets = reserve(client)
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
    event, reservation, _ = reserve(client)
    responses = at_once(
        *[partial(client.pay_reservation, reservation)] * 10,
        *[partial(client.cancel_reservation, reservation)] * 10,
    )
    assert sorted(response.status_code for response in responses) == [200] + [409] * 19
    status = client.find_reservation(reservation).json()["status"]
    expected = {"purchased": (3, 7), "user_cancelled": (0, 10)}[status]
    counts = client.find_event(event)
    assert (counts["purchasedTickets"], counts["availableTickets"]) == expected


def test_concurrent_payment_and_cancellation_never_both_succeed(client: Client) -> None:
    for n in range(10):
        event = client.create_event(name=f"event {n}")
        tickets = client.reserve(event, 2).json()
        payment, cancellation = at_once(
            partial(client.pay_reservation, tickets[0]["reservationId"]),
            partial(client.cancel, tickets[1]["id"]),
        )
        assert payment.status_code == 200
        assert cancellation.status_code in (200, 409)
        purchased = 1 if cancellation.status_code == 200 else 2
        assert client.find_event(event)["purchasedTickets"] == purchased


def test_a_reservation_that_expires_while_its_payment_waits_is_not_sold(
    client: Client, database: Database
) -> None:
    event, reservation, tickets = reserve(client)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            payment = pool.submit(client.pay_reservation, reservation)
            database.wait_until_blocked()
            rival.execute(
                "update ticket_allocations set expires_at = statement_timestamp() "
                "where position = 3"
            )
        response = payment.result()
    assert code(response) == (410, "HOLD_EXPIRED")
    assert response.json()["details"] == {"ticketId": tickets[2]}
    assert client.find_event(event)["purchasedTickets"] == 0
