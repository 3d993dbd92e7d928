"""Lists of tickets: those of a user, and those of an event for its organizer."""

import json
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.support.client import Client, code
from tests.support.database import Database

pytestmark = pytest.mark.core


def ids(page: dict[str, object]) -> list[str]:
    """Return the ids of the tickets on a page."""
    data = page["data"]
    assert isinstance(data, list)
    return [ticket["id"] for ticket in data]


def test_a_users_tickets_of_all_events_are_listed_newest_first(client: Client) -> None:
    first, second = client.create_event(name="first"), client.create_event(name="second")
    tickets = [client.hold(event)[0] for event in (first, second, first)]
    client.hold(first, user="bob")
    page = client.list_user_tickets().json()
    assert ids(page) == tickets[::-1]
    assert {ticket["userFingerprint"] for ticket in page["data"]} == {"alice"}
    assert page["meta"] == {"total": 3, "page": 1, "limit": 10, "pages": 1}
    assert client.list_user_tickets(user="carol").json()["data"] == []


def test_an_events_tickets_are_listed_without_fingerprints(client: Client) -> None:
    event, other = client.create_event(name="event"), client.create_event(name="other")
    tickets = [client.hold(event, user=user)[0] for user in ("alice", "bob")]
    client.hold(other)
    response = client.list_event_tickets(event)
    assert ids(response.json()) == tickets[::-1]
    assert "alice" not in response.text
    assert "userFingerprint" not in response.text


def test_an_event_without_tickets_has_an_empty_list(client: Client) -> None:
    response = client.list_event_tickets(client.create_event())
    assert response.json() == {"data": [], "meta": {"total": 0, "page": 1, "limit": 10, "pages": 0}}
    unknown = client.list_event_tickets("018f0000-0000-7000-8000-000000000001")
    assert code(unknown) == (404, "NOT_FOUND")


def test_pages_contain_every_ticket_exactly_once(client: Client) -> None:
    event = client.create_event(tickets=30)
    for quantity in (10, 10, 3):  # the tickets of one reservation have the same time
        client.hold(event, quantity)
    for list_tickets in (
        client.list_user_tickets,
        lambda **query: client.list_event_tickets(event, **query),
    ):
        pages = [list_tickets(page=page, limit=5).json() for page in range(1, 7)]
        assert [len(page["data"]) for page in pages] == [5, 5, 5, 5, 3, 0]
        assert len({id_ for page in pages for id_ in ids(page)}) == 23
        assert pages[5]["meta"] == {"total": 23, "page": 6, "limit": 5, "pages": 5}
        created = [ticket["createdAt"] for page in pages for ticket in page["data"]]
        assert created == sorted(created, reverse=True)


def test_lists_are_filtered_by_the_status_that_they_show(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    by_status = {
        status: client.hold(event)[0]
        for status in ("reserved", "purchased", "user_cancelled", "refunded", "expired")
    }
    client.pay(by_status["purchased"])
    client.cancel(by_status["user_cancelled"])
    client.pay(by_status["refunded"])
    client.refund(by_status["refunded"])
    # Its time is up, and it has not been swept.
    database.expire_hold(by_status["expired"])
    for status, ticket in by_status.items():
        for page in (
            client.list_user_tickets(status=status),
            client.list_event_tickets(event, status=status),
        ):
            assert ids(page.json()) == [ticket]
            assert page.json()["data"][0]["status"] == status
            assert page.json()["meta"]["total"] == 1
    # It is found the same way after it was swept.
    client.hold(event, user="bob")
    assert ids(client.list_user_tickets(status="expired").json()) == [by_status["expired"]]


@pytest.mark.parametrize(
    "query", [{"status": "sold"}, {"page": 0}, {"limit": 101}, {"color": "red"}, {"status": ""}]
)
def test_a_bad_query_is_refused(client: Client, query: dict[str, Any]) -> None:
    event = client.create_event()
    for response in (client.list_user_tickets(**query), client.list_event_tickets(event, **query)):
        assert code(response) == (400, "BAD_REQUEST")
        assert [detail["field"] for detail in response.json()["details"]] == list(query)


def test_blanks_around_a_header_value_are_ignored(client: Client) -> None:
    (ticket,) = client.hold(client.create_event())
    # httpx strips them, so this uses the client of the standard library.
    connection = HTTPConnection(client.base_url.host, client.base_url.port)
    connection.request("GET", "/tickets", headers={"X-User-Fingerprint": " alice \t"})
    assert ids(json.loads(connection.getresponse().read())) == [ticket]
    connection.close()


def test_a_header_with_two_values_is_refused(client: Client) -> None:
    headers = [("X-User-Fingerprint", "alice"), ("X-User-Fingerprint", "bobby")]
    response = client.get("/tickets", headers=headers)
    assert code(response) == (400, "BAD_REQUEST")
    assert "is repeated" in response.json()["error"]


def test_a_list_of_a_users_tickets_requires_the_fingerprint(client: Client) -> None:
    response = client.get("/tickets")
    assert code(response) == (400, "BAD_REQUEST")
    assert response.json()["error"] == "The header X-User-Fingerprint is missing"
