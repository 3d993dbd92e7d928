"""Lists of tickets: those of a user, and those of an event for its organizer."""

import json
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from typing import Any

import pytest
from httpx2 import Response

from tests.support.client import Client, code
from tests.support.database import Database

pytestmark = pytest.mark.core

UNKNOWN = "018f0000-0000-7000-8000-000000000001"


def ids(page: dict[str, object]) -> list[str]:
    """Return the ids of the tickets on a page."""
    data = page["data"]
    assert isinstance(data, list)
    return [ticket["id"] for ticket in data]


def both_lists(client: Client, event: str) -> list[Callable[..., Response]]:
    """Return the functions that list alice's tickets and the tickets of an event."""
    return [client.list_user_tickets, partial(client.list_event_tickets, event)]


def test_a_users_tickets_of_all_events_are_listed_newest_first(client: Client) -> None:
    first, second = client.create_event(name="first"), client.create_event(name="second")
    tickets = [client.hold(event)[0] for event in (first, second, first)]
    client.hold(first, user="bob")
    page = client.list_user_tickets().json()
    assert ids(page) == tickets[::-1]
    assert {ticket["userFingerprint"] for ticket in page["data"]} == {"alice"}
    assert page["meta"] == {"total": 3, "page": 1, "limit": 10, "pages": 1, "next": None}
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
    meta = {"total": 0, "page": 1, "limit": 10, "pages": 0, "next": None}
    assert response.json() == {"data": [], "meta": meta}
    unknown = client.list_event_tickets(UNKNOWN)
    assert code(unknown) == (404, "NOT_FOUND")


def test_pages_contain_every_ticket_exactly_once(client: Client) -> None:
    event = client.create_event(tickets=30)
    for quantity in (10, 10, 3):  # the tickets of one reservation have the same time
        client.hold(event, quantity)
    for list_tickets in both_lists(client, event):
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


def test_a_page_behind_a_cursor_has_the_holds_that_are_over(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    lapsed, _, newest = (client.hold(event)[0] for _ in range(3))
    database.expire_hold(lapsed)
    for list_tickets in both_lists(client, event):
        assert ids(list_tickets(status="expired", after=newest).json()) == [lapsed]


@pytest.mark.parametrize(
    "query",
    [
        *({"status": "sold"}, {"page": 0}, {"limit": 1001}, {"color": "red"}, {"status": ""}),
        *({"after": ""}, {"after": "1"}, {"after": UNKNOWN}),
    ],
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


def test_a_refund_between_two_pages_hides_no_ticket(client: Client) -> None:
    event = client.create_event()
    for ticket in client.hold(event, 6):
        client.pay(ticket)
    for list_tickets in both_lists(client, event):
        purchased = partial(list_tickets, status="purchased", limit=2)
        first, second, *others = ids(list_tickets(status="purchased").json())
        page = purchased(page=1).json()
        assert ids(page) == [first, second]
        client.refund(first)
        page = purchased(after=second).json()
        assert ids(page) == others[:2]
        # A cursor stays valid when its own ticket has left the list.
        client.refund(second)
        assert purchased(after=second).json() == page


def test_the_cursors_of_a_list_lead_to_its_end(client: Client) -> None:
    event = client.create_event(tickets=5)
    client.hold(event, 3)
    client.hold(event, 2)
    for list_tickets in both_lists(client, event):
        all_ids = ids(list_tickets().json())
        first = list_tickets(limit=2).json()
        assert ids(first) == all_ids[:2]
        meta = {"total": 5, "page": 1, "limit": 2, "pages": 3, "next": all_ids[1]}
        assert first["meta"] == meta
        second = list_tickets(limit=2, after=all_ids[1]).json()
        assert ids(second) == all_ids[2:4]
        assert second["meta"] == {"limit": 2, "next": all_ids[3]}
        # The last page may be full, and the cursor of the last ticket leads to an empty one.
        for limit in (1, 2):
            last = list_tickets(limit=limit, after=all_ids[3]).json()
            assert (ids(last), last["meta"]) == (all_ids[4:], {"limit": limit, "next": None})
        empty = list_tickets(after=all_ids[4]).json()
        assert empty == {"data": [], "meta": {"limit": 10, "next": None}}
        # A page with a number has no cursor, as before.
        numbered = list_tickets(limit=2, page=1).json()
        assert numbered["meta"] == {"total": 5, "page": 1, "limit": 2, "pages": 3}


def test_a_page_has_up_to_a_thousand_tickets(client: Client, database: Database) -> None:
    event = client.create_event()
    database.psql(
        "insert into ticket_allocations (event_id, user_fingerprint, status) "
        f"select '{event}', 'alice', 'expired' from generate_series(1, 1001)"
    )
    for list_tickets in both_lists(client, event):
        page = list_tickets(limit=1000).json()
        rest = list_tickets(limit=1000, after=page["meta"]["next"]).json()
        assert (len(set(ids(page))), len(ids(rest))) == (1000, 1)
        assert len(ids(list_tickets(limit=1000, page=1).json())) == 1000


def test_a_cursor_must_be_a_ticket_of_the_list(client: Client) -> None:
    event, other = client.create_event(name="event"), client.create_event(name="other")
    (own,) = client.hold(event)
    (of_another_user,) = client.hold(event, user="bob")
    (of_another_event,) = client.hold(other)
    unknown = client.list_user_tickets(after=UNKNOWN)
    assert unknown.json()["details"] == [
        {"field": "after", "message": "is not a ticket of this list"}
    ]
    # The response does not tell whether there is such a ticket.
    for response in (
        client.list_user_tickets(after=of_another_user),
        client.list_event_tickets(event, after=of_another_event),
        client.list_event_tickets(UNKNOWN, after=own),
    ):
        assert (response.status_code, response.json()) == (400, unknown.json())
    assert client.list_user_tickets(after=own).status_code == 200
    assert client.list_user_tickets(after=of_another_event).status_code == 200
    assert client.list_event_tickets(event, after=of_another_user).status_code == 200


def test_a_page_number_and_a_cursor_are_refused_together(client: Client) -> None:
    event = client.create_event()
    (ticket,) = client.hold(event)
    for list_tickets in both_lists(client, event):
        for page in (1, 2):
            response = list_tickets(page=page, after=ticket)
            assert code(response) == (400, "BAD_REQUEST")
            assert response.json()["details"] == [
                {"field": "after", "message": "must not be sent with page"}
            ]


def test_a_ticket_with_another_owner_is_no_cursor_of_the_first(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    client.hold(event, 3)
    first, second, third = ids(client.list_user_tickets().json())
    database.psql(f"update ticket_allocations set user_fingerprint = 'bob' where id = '{first}'")
    assert code(client.list_user_tickets(after=first)) == (400, "BAD_REQUEST")
    assert ids(client.list_user_tickets().json()) == [second, third]
    assert ids(client.list_event_tickets(event, after=first).json()) == [second, third]


def test_the_organizer_finds_the_tickets_of_a_reservation(client: Client) -> None:
    event, other = client.create_event(), client.create_event(name="Matinee")
    client.hold(event, user="bob")
    tickets = client.hold(event, 3)
    client.pay(tickets[0])
    reservation = client.find_ticket(tickets[0]).json()["reservationId"]
    find = partial(client.list_event_tickets, event, reservationId=reservation)
    found = find().json()
    assert sorted(ids(found)) == sorted(tickets)
    assert found["meta"] == {"total": 3, "page": 1, "limit": 10, "pages": 1, "next": None}
    assert all("userFingerprint" not in ticket for ticket in found["data"])
    assert ids(find(status="purchased").json()) == tickets[:1]
    assert ids(find(limit=2).json()) + ids(find(limit=2, page=2).json()) == ids(found)
    # It is a part of this event's list: a reservation of another event is not in it.
    nothing = client.list_event_tickets(other, reservationId=reservation).json()
    assert (nothing["data"], nothing["meta"]["total"]) == ([], 0)
    assert code(client.list_event_tickets(UNKNOWN, reservationId=reservation))[0] == 404


@pytest.mark.parametrize(
    "query", [{"reservationId": "1"}, {"reservationId": UNKNOWN, "after": UNKNOWN}]
)
def test_a_bad_query_for_a_reservation_is_refused(client: Client, query: dict[str, str]) -> None:
    response = client.list_event_tickets(client.create_event(), **query)
    assert code(response) == (400, "BAD_REQUEST")
    assert [detail["field"] for detail in response.json()["details"]] == list(query)[-1:]
