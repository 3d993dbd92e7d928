"""Transferring tickets: a ticket gets a new owner."""

import pytest

from tests.support.client import Client, code, is_replay
from tests.support.database import Database

pytestmark = pytest.mark.core


def expire(database: Database) -> None:
    """Let every hold have ended a second ago."""
    database.psql(
        "update ticket_allocations set expires_at = now() - interval '1 s' "
        "where status = 'reserved'"
    )


@pytest.mark.parametrize("status", ["reserved", "purchased"])
def test_a_ticket_gets_a_new_owner_and_stays_what_it_is(client: Client, status: str) -> None:
    event = client.create_event(totalTickets=1)  # sold out
    (ticket,) = client.hold(event)
    if status == "purchased":
        client.pay(ticket)
    before = client.find_ticket(ticket).json()
    found = client.find_event(event)
    response = client.transfer(ticket, "bob")
    assert response.status_code == 200
    assert response.json() == {
        **before,
        "userFingerprint": "bob",
        "updatedAt": response.json()["updatedAt"],
    }
    assert response.json() == client.find_ticket(ticket, "bob").json()
    assert "userFingerprint" not in client.find_ticket(ticket, "alice").json()
    entry = client.list_ledger(event).json()["data"][-1]
    assert entry["lastEvent"]["type"] == "updated"
    moves = ("reserved", "purchased", "expired", "cancelled", "refunded")
    assert [entry[kind] for kind in moves] == [0] * 5
    changed = client.find_event(event)
    assert changed["version"] == found["version"] + 1
    counts = ("allocatedTickets", "purchasedTickets", "totalTickets", "revision")
    assert [changed[name] for name in counts] == [found[name] for name in counts]


def test_only_the_new_owner_can_use_a_transferred_ticket(client: Client) -> None:
    event = client.create_event(totalTickets=2)
    (ticket,) = client.hold(event)
    client.transfer(ticket, "bob")
    assert code(client.pay(ticket)) == (403, "WRONG_FINGERPRINT")
    assert code(client.cancel(ticket)) == (403, "WRONG_FINGERPRINT")
    assert code(client.transfer(ticket, "carol")) == (403, "WRONG_FINGERPRINT")
    # Sent again, it is not the owner's ticket any more.
    assert code(client.transfer(ticket, "bob")) == (403, "WRONG_FINGERPRINT")
    assert client.pay(ticket, "bob").status_code == 200
    assert [found["id"] for found in client.list_user_tickets("bob").json()["data"]] == [ticket]
    assert client.list_user_tickets("alice").json()["data"] == []


def test_each_owner_of_a_reservation_sees_and_moves_only_their_tickets(client: Client) -> None:
    event = client.create_event(totalTickets=3)
    first = client.reserve(event, 3, key="k")
    whole = first.json()[0]["reservationId"]
    ids = [ticket["id"] for ticket in first.json()]
    client.transfer(ids[1], "bob")
    shown = {
        user: [ticket["id"] for ticket in client.find_reservation(whole, user).json()["tickets"]]
        for user in ("alice", "bob")
    }
    assert shown == {"alice": [ids[0], ids[2]], "bob": [ids[1]]}
    assert code(client.find_reservation(whole, "carol")) == (403, "WRONG_FINGERPRINT")

    paid = client.pay_reservation(whole, "bob")
    assert [ticket["id"] for ticket in paid.json()["tickets"]] == [ids[1]]
    cancelled = client.cancel_reservation(whole, "alice")
    assert [ticket["id"] for ticket in cancelled.json()["tickets"]] == [ids[0], ids[2]]
    statuses = [client.find_ticket(id_).json()["status"] for id_ in ids]
    assert statuses == ["user_cancelled", "purchased", "user_cancelled"]

    # The key still has all its tickets, with the fingerprint on those that are still the buyer's.
    again = client.reserve(event, 3, key="k")
    assert is_replay(first, again)
    owners = [ticket.get("userFingerprint") for ticket in again.json()]
    assert owners == ["alice", None, "alice"]
    assert client.find_event(event)["allocatedTickets"] == 1


def test_a_first_owner_without_tickets_is_refused(client: Client) -> None:
    event = client.create_event(totalTickets=1)
    (ticket,) = client.hold(event)
    whole = client.find_ticket(ticket).json()["reservationId"]
    client.transfer(ticket, "bob")
    for response in (
        client.find_reservation(whole),
        client.pay_reservation(whole),
        client.pay_late_reservation(whole),
        client.extend_reservation(whole),
        client.cancel_reservation(whole),
    ):
        assert code(response) == (403, "WRONG_FINGERPRINT")
    assert client.find_reservation(whole, "bob").status_code == 200


def test_a_transfer_counts_toward_the_limit_of_the_new_owner(client: Client) -> None:
    event = client.create_event(totalTickets=9, maxTicketsPerPerson=2)
    (ticket, _) = client.hold(event, 2)
    client.pay(client.hold(event, 1, user="bob")[0], "bob")
    client.hold(event, 1, user="bob")
    refused = client.transfer(ticket, "bob")
    assert code(refused) == (409, "LIMIT_REACHED")
    assert refused.json()["details"] == {"maxTicketsPerPerson": 2, "held": 1, "purchased": 1}
    assert client.find_ticket(ticket, "alice").json()["userFingerprint"] == "alice"
    # Who has given one away may have another.
    assert client.transfer(ticket, "carol").status_code == 200
    assert client.reserve(event, 1).status_code == 201
    assert code(client.reserve(event, 1)) == (409, "LIMIT_REACHED")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("lapse", (410, "HOLD_EXPIRED")),
        ("cancel", (409, "ALREADY_CANCELLED")),
        ("refund", (409, "ALREADY_REFUNDED")),
    ],
)
def test_a_ticket_that_is_over_is_not_transferred(
    client: Client, database: Database, end: str, expected: tuple[int, str]
) -> None:
    event = client.create_event(totalTickets=1)
    (ticket,) = client.hold(event)
    if end == "lapse":
        expire(database)
    if end == "cancel":
        client.cancel(ticket)
    if end == "refund":
        client.pay(ticket)
        client.refund(ticket)
    assert code(client.transfer(ticket, "bob")) == expected
    assert client.find_ticket(ticket, "alice").json()["userFingerprint"] == "alice"


def test_a_transfer_to_oneself_or_with_bad_fields_is_refused(client: Client) -> None:
    event = client.create_event(totalTickets=1)
    (ticket,) = client.hold(event)
    version = client.find_event(event)["version"]
    path = f"/events/tickets/{ticket}/transfer"
    for body, field in [
        ({"userFingerprint": "alice", "newUserFingerprint": "alice"}, "newUserFingerprint"),
        ({"userFingerprint": "alice"}, "newUserFingerprint"),
        ({"newUserFingerprint": "bob"}, "userFingerprint"),
        ({"userFingerprint": "alice", "newUserFingerprint": "a b"}, "newUserFingerprint"),
        ({"userFingerprint": "alice", "newUserFingerprint": "bob", "to": "x"}, "to"),
    ]:
        response = client.post(path, json=body)
        assert code(response) == (400, "BAD_REQUEST")
        assert [bad["field"] for bad in response.json()["details"]] == [field]
    assert code(client.transfer(ticket, "carol", user="bob")) == (403, "WRONG_FINGERPRINT")
    assert client.find_event(event)["version"] == version


def test_a_hold_ends_when_it_would_have_ended_for_the_first_owner(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=1)
    (ticket,) = client.hold(event)
    end = client.find_ticket(ticket).json()["expiresAt"]
    assert client.transfer(ticket, "bob").json()["expiresAt"] == end
    expire(database)
    assert code(client.pay(ticket, "bob")) == (410, "HOLD_EXPIRED")
    assert client.pay_late(ticket, "bob").status_code == 200
