"""Reservation: in the order of arrival, and for each request all its tickets or none."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.waiting import at_once

pytestmark = pytest.mark.core


def test_a_reservation_holds_tickets_for_its_owner(client: Client) -> None:
    event = client.create_event(tickets=5)
    response = client.reserve(event, quantity=3, user="alice")
    assert response.status_code == 201
    tickets = response.json()
    assert len({ticket["id"] for ticket in tickets}) == 3
    assert len({ticket["reservationId"] for ticket in tickets}) == 1
    for ticket in tickets:
        assert ticket["eventId"] == event
        assert ticket["status"] == "reserved"
        assert ticket["userFingerprint"] == "alice"
        assert ticket["expiresAt"] > ticket["createdAt"]
    counts = client.find_event(event)
    assert (counts["availableTickets"], counts["reservedTickets"], counts["version"]) == (2, 3, 2)


def test_a_hold_ends_after_the_hold_seconds(database: Database, start: Starter) -> None:
    with start(database, hold_seconds=120).client() as client:
        client.hold(client.create_event())
    seconds = "select extract(epoch from expires_at - created_at)::integer from ticket_allocations"
    assert database.psql(seconds) == ["120"]


@pytest.mark.parametrize("terms", [{}, {"holdSeconds": 900}], ids=["service", "event"])
def test_a_hold_begins_after_the_wait_for_the_lock(
    client: Client, database: Database, terms: dict[str, Any]
) -> None:
    event = client.create_event(**terms)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event):
            reserved = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            (locked_until,) = database.psql("select clock_timestamp()")
        (ticket,) = reserved.result().json()
    begins_at = datetime.fromisoformat(ticket["expiresAt"]) - timedelta(seconds=900)
    assert begins_at > datetime.fromisoformat(locked_until)
    changed_at = client.find_event(event)["updatedAt"]
    assert datetime.fromisoformat(changed_at) > datetime.fromisoformat(locked_until)


def test_tickets_of_a_reservation_are_numbered_in_order(client: Client, database: Database) -> None:
    tickets = client.hold(client.create_event(), quantity=4)
    by_position = database.psql("select id from ticket_allocations order by position")
    assert by_position == tickets
    positions = database.psql("select position from ticket_allocations order by 1")
    assert positions == ["1", "2", "3", "4"]


def test_ids_increase_with_time(client: Client) -> None:
    event = client.create_event(tickets=3)
    # UUIDv7 of RFC 9562: the first 48 bits are the time in milliseconds.
    ids = [client.hold(event)[0] for _ in range(3)]
    assert [id_[:13] for id_ in ids] == sorted(id_[:13] for id_ in ids)
    assert {id_[14] for id_ in ids} == {"7"}


def test_a_request_for_too_many_tickets_reserves_none(client: Client) -> None:
    event = client.create_event(tickets=5)
    response = client.reserve(event, quantity=10)
    assert code(response) == (409, "NOT_ENOUGH_TICKETS")
    assert response.json()["error"] == "Not enough tickets available"
    assert response.json()["details"] == {"availableTickets": 5}
    assert client.find_event(event)["availableTickets"] == 5
    assert client.find_event(event)["version"] == 1


def test_a_sold_out_event_refuses_with_its_own_code(client: Client) -> None:
    event = client.create_event(tickets=1)
    client.hold(event)
    response = client.reserve(event)
    assert code(response) == (409, "TICKETS_SOLD_OUT")
    assert response.json()["error"] == "Not enough tickets available"
    assert response.json()["details"] == {"availableTickets": 0}


def test_the_last_ticket_is_sold_once(client: Client) -> None:
    event = client.create_event(tickets=1)
    responses = at_once(*[lambda n=n: client.reserve(event, user=f"user-{n}") for n in range(50)])
    assert sorted(response.status_code for response in responses) == [201] + [409] * 49
    assert client.find_event(event)["availableTickets"] == 0


def test_an_unknown_event_has_no_tickets(client: Client) -> None:
    response = client.reserve("018f0000-0000-7000-8000-000000000001")
    assert code(response) == (404, "NOT_FOUND")
    assert response.json()["error"] == "Event not found"


@pytest.mark.parametrize("across_events", ["true", "false"])
def test_a_crowd_over_many_events_is_served_with_both_kinds_of_batches(
    database: Database, start: Starter, across_events: str
) -> None:
    service = start(database, batch_across_events=across_events)
    with service.client() as client:
        events = [client.create_event(tickets=3, name=f"event {n}") for n in range(8)]
        responses = at_once(
            *[
                lambda n=n: client.reserve(events[n % 8], user=f"user-{n}", quantity=1)
                for n in range(40)
            ]
        )
        assert sorted(response.status_code for response in responses) == [201] * 24 + [409] * 16
        payments = at_once(
            *[
                lambda ticket=ticket: client.pay(ticket["id"], ticket["userFingerprint"])
                for response in responses
                if response.status_code == 201
                for ticket in response.json()
            ]
        )
        assert {response.status_code for response in payments} == {200}
        assert {client.find_event(event)["purchasedTickets"] for event in events} == {3}
