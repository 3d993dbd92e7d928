"""The ledger: one row for each committed transaction of an event, which never changes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.client import Client, code
from tests.support.database import Database

pytestmark = pytest.mark.core

UNKNOWN = "018f0000-0000-7000-8000-000000000001"


def entries(client: Client, event: str) -> list[dict[str, Any]]:
    """Return an event's whole ledger."""
    data: list[dict[str, Any]] = client.list_ledger(event).json()["data"]
    return data


def moved_tickets(entry: dict[str, Any]) -> dict[str, int]:
    """Return how many tickets an entry moved, by kind, without kinds that it did not move."""
    kinds = ("reserved", "purchased", "expired", "cancelled", "refunded")
    return {kind: entry[kind] for kind in kinds if entry[kind]}


@pytest.fixture
def event(client: Client, database: Database) -> str:
    """An event with every kind of change."""
    event = client.create_event()
    held, expired, paid, _ = client.hold(event, quantity=4)
    client.cancel(held)
    client.pay(paid)
    client.refund(paid)
    client.update_event(event, name="Closing night")
    client.update_event(event, totalTickets=20)
    database.expire_hold(expired)
    client.reserve(event, user="bob")
    return event


def test_every_change_is_recorded_once_and_in_order(client: Client, event: str) -> None:
    changes = [
        (entry["version"], entry["lastEvent"]["type"], moved_tickets(entry))
        for entry in entries(client, event)
    ]
    assert changes == [
        (1, "created", {}),
        (2, "reserved", {"reserved": 4}),
        (3, "user_cancelled", {"cancelled": 1}),
        (4, "purchased", {"purchased": 1}),
        (5, "refunded", {"refunded": 1}),
        (6, "updated", {}),
        (7, "resized", {}),
        # One transaction: the due hold expired before bob's request was served.
        (8, "expired", {"expired": 1}),
        (9, "reserved", {"reserved": 1}),
    ]


def test_an_entry_has_the_counts_after_its_transaction(client: Client, event: str) -> None:
    counts = [
        (entry["totalTickets"], entry["allocatedTickets"], entry["purchasedTickets"])
        for entry in entries(client, event)
    ]
    assert counts == [
        (10, 0, 0),
        (10, 4, 0),
        (10, 3, 0),
        (10, 3, 1),
        (10, 2, 0),
        (10, 2, 0),
        (20, 2, 0),
        (20, 1, 0),
        (20, 2, 0),
    ]
    now = client.find_event(event)
    last = entries(client, event)[-1]
    assert {key: last[key] for key in ("version", "totalTickets", "allocatedTickets")} == {
        key: now[key] for key in ("version", "totalTickets", "allocatedTickets")
    }
    assert last["recordedAt"] == last["lastEvent"]["timestamp"] == now["updatedAt"]


def test_an_actor_identifies_a_buyer_within_one_event_only(client: Client) -> None:
    first, second = client.create_event(name="first"), client.create_event(name="second")
    for event in (first, second):
        client.hold(event, user="alice")
        client.pay(client.hold(event, user="bob")[0], user="bob")
        client.hold(event, user="alice")
    (creator, alice, bob, payer, alice_again), (_, alice_in_second, *_) = (
        [entry["lastEvent"]["actor"] for entry in entries(client, event)]
        for event in (first, second)
    )
    assert creator is None
    assert alice == alice_again != bob
    assert bob == payer
    assert alice_in_second not in (alice, bob)
    assert all(len(actor) == 10 for actor in (alice, bob, alice_in_second))


def test_the_ledger_never_contains_a_fingerprint(client: Client, database: Database) -> None:
    owner = "the-owners-own-fingerprint"
    event = client.create_event()
    first, second = client.hold(event, quantity=2, user=owner)
    client.pay(first, user=owner)
    client.cancel(second, user=owner)
    for change in (client.pay_reservation, client.cancel_reservation):
        reservation = client.reserve(event, quantity=2, user=owner).json()[0]["reservationId"]
        assert change(reservation, user=owner).status_code == 200
    actors = [entry["lastEvent"]["actor"] for entry in entries(client, event)][1:]
    assert len(actors) == 7
    assert len(set(actors)) == 1
    for table in ("event_ledger", "event_private"):
        leaks = f"select from {table} as t where t::text like '%{owner}%'"
        assert database.psql(leaks) == []
        assert owner.encode().hex() not in str(database.psql(f"select * from {table}"))


def test_the_ledger_is_read_page_by_page(client: Client, event: str) -> None:
    first = client.list_ledger(event, limit=3).json()
    assert first["meta"] == {"after": 0, "limit": 3, "next": 3}
    second = client.list_ledger(event, limit=3, after=first["meta"]["next"]).json()
    assert [entry["version"] for entry in second["data"]] == [4, 5, 6]
    third = client.list_ledger(event, limit=4, after=6).json()
    assert third["meta"] == {"after": 6, "limit": 4, "next": None}
    assert client.list_ledger(event, limit=3, after=6).json()["meta"]["next"] is None
    empty = client.list_ledger(event, after=9_223_372_036_854_775_807).json()
    assert (empty["data"], empty["meta"]["next"]) == ([], None)


def test_the_ledger_of_an_unknown_event_is_not_found(client: Client) -> None:
    assert code(client.list_ledger(UNKNOWN)) == (404, "NOT_FOUND")
    assert code(client.list_ledger(UNKNOWN, after=5)) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "query", [{"after": -1}, {"after": 2**63}, {"limit": 0}, {"limit": 1001}, {"page": 1}]
)
def test_a_bad_query_is_refused(client: Client, query: dict[str, Any]) -> None:
    response = client.list_ledger(client.create_event(), **query)
    assert code(response) == (400, "BAD_REQUEST")
    assert [detail["field"] for detail in response.json()["details"]] == list(query)


@pytest.mark.parametrize(
    "sql",
    [
        "update event_ledger set allocated_tickets = 0",
        "update event_ledger set version = version where false",
        "delete from event_ledger",
        "delete from event_ledger where false",
        "truncate event_ledger",
        "truncate events cascade",
    ],
)
def test_the_ledger_is_append_only_even_for_its_owner(
    client: Client, database: Database, event: str, sql: str
) -> None:
    before = entries(client, event)
    assert "the ledger is append-only" in database.psql_error(sql)
    assert entries(client, event) == before


def test_recorded_at_never_goes_back_when_the_clock_does(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    # As if the clock had been set back by a day.
    database.psql(
        "alter table events disable trigger events_touch_updated_at;"
        "update events set updated_at = statement_timestamp() + interval '1 day';"
        "alter table events enable trigger events_touch_updated_at"
    )
    client.hold(event)
    client.hold(event)
    times = [entry["recordedAt"] for entry in entries(client, event)]
    assert times == sorted(times)
    assert times[1] == times[2] > datetime.now(UTC).isoformat()
    # Of versions with one time the last one is shown.
    assert find_event_at(client, event, times[1])["version"] == 3


def find_event_at(client: Client, event: str, moment: str) -> dict[str, Any]:
    """Return an event as it was at a moment."""
    response = client.get(f"/events/{event}", params={"at": moment})
    assert response.status_code == 200, response.text
    past_event: dict[str, Any] = response.json()
    return past_event


def test_an_event_is_shown_as_it_was_at_a_given_moment(client: Client, event: str) -> None:
    history = entries(client, event)
    now = client.find_event(event)
    for entry, following in zip(history, [*history[1:], None], strict=True):
        past = find_event_at(client, event, entry["recordedAt"])  # inclusive, to the microsecond
        for key in ("version", "totalTickets", "allocatedTickets", "purchasedTickets"):
            assert past[key] == entry[key]
        assert past["availableTickets"] == entry["totalTickets"] - entry["allocatedTickets"]
        assert (past["name"], past["date"]) == (now["name"], now["date"])
        if following:
            end = datetime.fromisoformat(following["recordedAt"]) - timedelta(microseconds=1)
            assert find_event_at(client, event, end.isoformat())["version"] == entry["version"]


def test_a_moment_in_the_future_shows_the_latest_state(
    client: Client, database: Database, event: str
) -> None:
    assert find_event_at(client, event, "2999-01-01T00:00:00Z")["version"] == 9
    # It shows what was committed: a hold that expires now has not been swept yet.
    database.psql("update ticket_allocations set expires_at = created_at where status = 'reserved'")
    assert find_event_at(client, event, "2999-01-01T00:00:00Z")["allocatedTickets"] == 2
    assert client.find_event(event)["allocatedTickets"] == 0


def test_a_moment_before_the_event_existed_is_refused(client: Client, event: str) -> None:
    created_at = datetime.fromisoformat(entries(client, event)[0]["recordedAt"])
    before = (created_at - timedelta(microseconds=1)).isoformat()
    response = client.get(f"/events/{event}", params={"at": before})
    assert code(response) == (400, "BAD_REQUEST")
    assert response.json()["details"] == [{"field": "at", "message": "is before the event existed"}]
    assert code(client.get(f"/events/{UNKNOWN}", params={"at": before})) == (404, "NOT_FOUND")
    assert code(client.get(f"/events/{event}", params={"at": "today"})) == (400, "BAD_REQUEST")
