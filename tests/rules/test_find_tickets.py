"""Finding a ticket: anybody can, but only its owner sees the fingerprint."""

import pytest

from tests.support.client import Client, code

pytestmark = pytest.mark.core


def test_a_ticket_is_shown_without_its_fingerprint(client: Client) -> None:
    event = client.create_event()
    (ticket,) = client.hold(event, user="alice")
    public = client.find_ticket(ticket).json()
    assert list(public) == [
        "id",
        "eventId",
        "reservationId",
        "status",
        "expiresAt",
        "createdAt",
        "updatedAt",
    ]
    assert (public["id"], public["eventId"], public["status"]) == (ticket, event, "reserved")
    assert "alice" not in client.find_ticket(ticket, user="mallory").text


def test_the_owner_sees_the_fingerprint(client: Client) -> None:
    (ticket,) = client.hold(client.create_event(), user="alice")
    assert client.find_ticket(ticket, user="alice").json()["userFingerprint"] == "alice"


def test_an_unknown_ticket_is_not_found(client: Client) -> None:
    response = client.find_ticket("018f0000-0000-7000-8000-000000000002")
    assert code(response) == (404, "NOT_FOUND")
    assert response.json()["error"] == "Ticket allocation not found"
