"""Idempotency keys: a request that is sent again with its key reserves only once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client, code, is_replay
from tests.support.database import Database
from tests.support.services import RunningService
from tests.support.waiting import at_once

pytestmark = pytest.mark.core


def test_a_key_reserves_once_however_often_it_is_sent(client: Client) -> None:
    event = client.create_event(tickets=3)
    first = client.reserve(event, quantity=2, key="order-1")
    assert "Idempotency-Replayed" not in first.headers
    again = client.reserve(event, quantity=2, key="order-1")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert client.find_event(event)["availableTickets"] == 1


def test_a_key_sent_twenty_times_at_once_reserves_once(client: Client) -> None:
    event = client.create_event(tickets=30)
    responses = at_once(*[lambda: client.reserve(event, key="order-1")] * 20)
    assert {response.status_code for response in responses} == {201}
    assert len({response.text for response in responses}) == 1
    assert sum("Idempotency-Replayed" not in response.headers for response in responses) == 1
    assert client.find_event(event)["allocatedTickets"] == 1


def test_a_key_is_replayed_after_the_event_is_sold_out(client: Client) -> None:
    event = client.create_event(tickets=2)
    first = client.reserve(event, quantity=2, key="order-1")
    assert client.reserve(event, user="bob").status_code == 409
    assert client.reserve(event, quantity=2, key="order-1").json() == first.json()


def test_a_key_with_another_quantity_is_refused(client: Client) -> None:
    event = client.create_event()
    client.reserve(event, quantity=2, key="order-1")
    response = client.reserve(event, quantity=3, key="order-1")
    assert code(response) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert client.find_event(event)["allocatedTickets"] == 2


def test_a_refusal_is_not_remembered(client: Client) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event, user="bob")
    assert client.reserve(event, key="order-1").status_code == 409
    client.cancel(ticket, user="bob")
    response = client.reserve(event, key="order-1")
    assert response.status_code == 201
    assert "Idempotency-Replayed" not in response.headers


def test_keys_of_two_users_or_two_events_are_independent(client: Client) -> None:
    first, second = client.create_event(name="first"), client.create_event(name="second")
    reservations = [
        client.reserve(event, user=user, key=key).json()[0]["reservationId"]
        # The last four would be two if user and key were joined before hashing.
        for event, user, key in [
            (first, "alice", "k"),
            (first, "bob", "k"),
            (second, "alice", "k"),
            (first, "part-one", "b:c"),
            (first, "part-one:b", "c"),
            (first, "kim-1", "2k"),
            (first, "kim-12", "k"),
        ]
    ]
    assert len(set(reservations)) == 7


def test_a_key_is_replayed_after_its_reservation_has_ended(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    first = client.reserve(event, quantity=2, key="order-1")
    database.expire_hold(first.json()[0]["id"])
    again = client.reserve(event, quantity=2, key="order-1")
    assert is_replay(first, again)
    assert [ticket["status"] for ticket in again.json()] == ["expired", "reserved"]
    tickets = [ticket["id"] for ticket in first.json()]
    client.pay(tickets[1])
    client.refund(tickets[1])
    again = client.reserve(event, quantity=2, key="order-1")
    assert is_replay(first, again)
    assert [ticket["status"] for ticket in again.json()] == ["expired", "refunded"]
    assert client.find_event(event)["availableTickets"] == 10


def test_a_replay_shows_a_lapsed_hold_that_is_locked_as_expired(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    (ticket,) = client.reserve(event, key="order-1").json()
    database.expire_hold(ticket["id"])
    with database.connect() as stranger:
        # So it is still stored as reserved.
        stranger.execute("select from ticket_allocations for update")
        (replayed,) = client.reserve(event, key="order-1").json()
    assert (replayed["id"], replayed["status"]) == (ticket["id"], "expired")


def test_a_backslash_in_a_key_is_a_character(client: Client) -> None:
    event = client.create_event()
    keys = ("a\\\\b", "a\\b", "\\x61", "a")  # as an escape of bytea the last two are the same
    reservations = [client.reserve(event, key=key).json()[0]["reservationId"] for key in keys]
    assert len(set(reservations)) == 4


def test_a_key_sent_twenty_times_in_one_batch_reserves_once(
    client: Client, database: Database, service: RunningService
) -> None:
    event = client.create_event(tickets=30)
    with ThreadPoolExecutor(21) as pool:
        with database.lock_event(event):
            # The first waits for the lock; all others queue behind it for one batch.
            first = pool.submit(client.reserve, event, user="bob")
            database.wait_until_blocked()
            others = [pool.submit(client.reserve, event, key="order-1") for _ in range(20)]
            service.wait_until_accepted(21)
        assert first.result().status_code == 201
        responses = [other.result() for other in others]
    assert {response.status_code for response in responses} == {201}
    assert len({response.text for response in responses}) == 1
    assert sum("Idempotency-Replayed" not in response.headers for response in responses) == 1
    counts = client.find_event(event)
    # Version 1 is the creation. The twenty are one transaction, with bob's reservation or after it.
    assert (counts["allocatedTickets"], counts["version"]) in ((2, 2), (2, 3))


@pytest.mark.parametrize(("first", "again"), [("k", '"k"'), ('"k"', "k"), ('"a\\"b"', 'a"b')])
def test_a_key_is_the_same_with_quotes_around_it(client: Client, first: str, again: str) -> None:
    event = client.create_event()
    reserved = client.reserve(event, key=first)
    assert is_replay(reserved, client.reserve(event, key=again))


def test_a_reservation_says_where_it_is(client: Client) -> None:
    event = client.create_event()
    for _ in range(2):  # a replay, too
        reserved = client.reserve(event, key="k")
        location = reserved.headers["Location"]
        assert location == f"/reservations/{reserved.json()[0]['reservationId']}"
        found = client.get(location, headers={"X-User-Fingerprint": "alice"})
        assert [ticket["id"] for ticket in found.json()["tickets"]] == [
            ticket["id"] for ticket in reserved.json()
        ]
