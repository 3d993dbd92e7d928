"""The ledger: one row for each committed transaction of an event, never changed afterwards."""

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


def moves(entry: dict[str, Any]) -> dict[str, int]:
    """Return how many tickets an entry moved, of the kinds of which it moved any."""
    kinds = ("reserved", "purchased", "expired", "cancelled", "refunded")
    return {kind: entry[kind] for kind in kinds if entry[kind]}


@pytest.fixture
def sold(client: Client, database: Database) -> str:
    """An event to which everything has happened once."""
    event = client.create_event()
    held, lapsed, paid, _ = client.hold(event, quantity=4)
    client.cancel(held)
    client.pay(paid)
    client.refund(paid)
    client.update_event(event, name="Closing night")
    client.update_event(event, totalTickets=20)
    database.expire_hold(lapsed)
    client.reserve(event, user="bob")
    return event


def test_every_change_is_recorded_once_and_in_order(client: Client, sold: str) -> None:
    told = [(one["version"], one["lastEvent"]["type"], moves(one)) for one in entries(client, sold)]
    assert told == [
        (1, "created", {}),
        (2, "reserved", {"reserved": 4}),
        (3, "user_cancelled", {"cancelled": 1}),
        (4, "purchased", {"purchased": 1}),
        (5, "refunded", {"refunded": 1}),
        (6, "updated", {}),
        (7, "resized", {}),
        # One transaction: what was due expired before bob was served.
        (8, "expired", {"expired": 1}),
        (9, "reserved", {"reserved": 1}),
    ]


def test_an_entry_has_the_counts_after_its_transaction(client: Client, sold: str) -> None:
    counts = [
        (one["totalTickets"], one["allocatedTickets"], one["purchasedTickets"])
        for one in entries(client, sold)
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
    shown = client.find_event(sold)
    last = entries(client, sold)[-1]
    assert {key: last[key] for key in ("version", "totalTickets", "allocatedTickets")} == {
        key: shown[key] for key in ("version", "totalTickets", "allocatedTickets")
    }
    assert last["recordedAt"] == last["lastEvent"]["timestamp"] == shown["updatedAt"]


def test_an_actor_identifies_a_buyer_within_one_event_only(client: Client) -> None:
    one, other = client.create_event(name="one"), client.create_event(name="other")
    for event in (one, other):
        client.hold(event, user="alice")
        client.pay(client.hold(event, user="bob")[0], user="bob")
        client.hold(event, user="alice")
    (created, alice, bob, paid, again), (_, elsewhere, *_) = (
        [entry["lastEvent"]["actor"] for entry in entries(client, event)] for event in (one, other)
    )
    assert created is None
    assert alice == again != bob
    assert bob == paid
    assert elsewhere not in (alice, bob)
    assert all(len(name) == 10 for name in (alice, bob, elsewhere))


def test_the_ledger_never_contains_a_fingerprint(client: Client, database: Database) -> None:
    owner = "the-owners-own-fingerprint"
    event = client.create_event()
    one, other = client.hold(event, quantity=2, user=owner)
    client.pay(one, user=owner)
    client.cancel(other, user=owner)
    for verb in (client.pay_reservation, client.cancel_reservation):
        whole = client.reserve(event, quantity=2, user=owner).json()[0]["reservationId"]
        assert verb(whole, user=owner).status_code == 200
    actors = [entry["lastEvent"]["actor"] for entry in entries(client, event)][1:]
    assert len(actors) == 7
    assert len(set(actors)) == 1
    for table in ("event_ledger", "event_private"):
        shown = f"select from {table} as t where t::text like '%{owner}%'"
        assert database.psql(shown) == []
        assert owner.encode().hex() not in str(database.psql(f"select * from {table}"))


def test_the_ledger_is_read_page_by_page(client: Client, sold: str) -> None:
    first = client.list_ledger(sold, limit=3).json()
    assert first["meta"] == {"after": 0, "limit": 3, "next": 3}
    second = client.list_ledger(sold, limit=3, after=first["meta"]["next"]).json()
    assert [one["version"] for one in second["data"]] == [4, 5, 6]
    third = client.list_ledger(sold, limit=4, after=6).json()
    assert third["meta"] == {"after": 6, "limit": 4, "next": None}
    assert client.list_ledger(sold, limit=3, after=6).json()["meta"]["next"] is None
    nothing = client.list_ledger(sold, after=9_223_372_036_854_775_807).json()
    assert (nothing["data"], nothing["meta"]["next"]) == ([], None)


def test_the_ledger_of_an_unknown_event_is_not_found(client: Client) -> None:
    assert code(client.list_ledger(UNKNOWN)) == (404, "NOT_FOUND")
    assert code(client.list_ledger(UNKNOWN, after=5)) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "query", [{"after": -1}, {"after": 2**63}, {"limit": 0}, {"limit": 1001}, {"page": 1}]
)
def test_a_bad_query_is_refused(client: Client, query: dict[str, Any]) -> None:
    response = client.list_ledger(client.create_event(), **query)
    assert code(response) == (400, "BAD_REQUEST")
    assert [one["field"] for one in response.json()["details"]] == list(query)


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
    client: Client, database: Database, sold: str, sql: str
) -> None:
    before = entries(client, sold)
    assert "the ledger is append-only" in database.psql_error(sql)
    assert entries(client, sold) == before


def test_recorded_at_never_goes_back_when_the_clock_does(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    # As after a clock that was set back by a day.
    database.psql(
        "alter table events disable trigger events_touch_updated_at;"
        "update events set updated_at = statement_timestamp() + interval '1 day';"
        "alter table events enable trigger events_touch_updated_at"
    )
    client.hold(event)
    client.hold(event)
    times = [one["recordedAt"] for one in entries(client, event)]
    assert times == sorted(times)
    assert times[1] == times[2] > datetime.now(UTC).isoformat()


def at(client: Client, event: str, moment: str) -> dict[str, Any]:
    """Return the event as it was at a moment."""
    response = client.get(f"/events/{event}", params={"at": moment})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_an_event_is_shown_as_it_was_at_a_given_moment(client: Client, sold: str) -> None:
    history = entries(client, sold)
    now = client.find_event(sold)
    for entry, following in zip(history, [*history[1:], None], strict=True):
        told = at(client, sold, entry["recordedAt"])  # inclusive, to the microsecond
        for key in ("version", "totalTickets", "allocatedTickets", "purchasedTickets"):
            assert told[key] == entry[key]
        assert told["availableTickets"] == entry["totalTickets"] - entry["allocatedTickets"]
        assert (told["name"], told["date"]) == (now["name"], now["date"])
        if following:
            end = datetime.fromisoformat(following["recordedAt"]) - timedelta(microseconds=1)
            assert at(client, sold, end.isoformat())["version"] == entry["version"]


def test_a_moment_in_the_future_shows_the_latest_state(
    client: Client, database: Database, sold: str
) -> None:
    assert at(client, sold, "2999-01-01T00:00:00Z")["version"] == 9
    # What was committed: a hold that lapsed meanwhile is not swept yet.
    database.psql("update ticket_allocations set expires_at = created_at where status = 'reserved'")
    assert at(client, sold, "2999-01-01T00:00:00Z")["allocatedTickets"] == 2
    assert client.find_event(sold)["allocatedTickets"] == 0


def test_a_moment_before_the_event_existed_is_refused(client: Client, sold: str) -> None:
    born = datetime.fromisoformat(entries(client, sold)[0]["recordedAt"])
    before = (born - timedelta(microseconds=1)).isoformat()
    response = client.get(f"/events/{sold}", params={"at": before})
    assert code(response) == (400, "BAD_REQUEST")
    assert response.json()["details"] == [{"field": "at", "message": "is before the event existed"}]
    assert code(client.get(f"/events/{UNKNOWN}", params={"at": before})) == (404, "NOT_FOUND")
    assert code(client.get(f"/events/{sold}", params={"at": "today"})) == (400, "BAD_REQUEST")
