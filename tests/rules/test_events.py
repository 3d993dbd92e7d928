"""Events: creation, finding, lists and updates."""

from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from service.database.queries import Queries
from tests.support.citus import not_on_citus
from tests.support.client import Client, code
from tests.support.database import Database, skip_if_pooled
from tests.support.services import Starter
from tests.support.waiting import at_once

pytestmark = pytest.mark.core

FIELDS = [
    "id",
    "name",
    "date",
    "totalTickets",
    "allocatedTickets",
    "availableTickets",
    "reservedTickets",
    "purchasedTickets",
    "waitingTickets",
    "version",
    "revision",
    "saleStatus",
    "saleOpensAt",
    "saleClosesAt",
    "holdSeconds",
    "maxHoldSeconds",
    "maxTicketsPerPerson",
    "createdAt",
    "updatedAt",
]


def test_a_new_event_has_all_its_tickets_available(client: Client) -> None:
    response = client.post(
        "/events", json={"name": "Gig", "date": "2030-06-01T21:30:00+02:00", "totalTickets": 7}
    )
    event = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/events/{event['id']}"
    assert list(event) == FIELDS
    assert event["date"] == "2030-06-01T19:30:00Z"
    assert (event["totalTickets"], event["availableTickets"], event["version"]) == (7, 7, 1)
    assert client.find_event(event["id"]) == event


def test_concurrent_requests_create_one_event_per_name_and_date(client: Client) -> None:
    body = {"name": "Gig", "date": "2030-06-01T20:00:00Z", "totalTickets": 5}
    responses = at_once(*[lambda: client.post("/events", json=body)] * 10)
    assert sorted(response.status_code for response in responses) == [201] + [409] * 9
    assert code(client.post("/events", json=body)) == (409, "EVENT_EXISTS")
    assert client.post("/events", json={**body, "name": "Other"}).status_code == 201
    later = {**body, "date": "2030-06-02T20:00:00Z"}
    assert client.post("/events", json=later).status_code == 201


def create_with_an_error(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> tuple[int, str]:
    """Create an event; its query raises an error. Return the status and the code."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Queries, "_execute", fail)
    return code(
        client.post(
            "/events", json={"name": "Gig", "date": "2030-06-01T20:00:00Z", "totalTickets": 5}
        )
    )


@pytest.mark.parametrize(
    "error", [TimeoutError(), psycopg.OperationalError("the connection is lost")]
)
def test_a_creation_without_a_response_is_outcome_unknown(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert create_with_an_error(client, monkeypatch, error) == (503, "OUTCOME_UNKNOWN")


def test_a_creation_without_a_connection_is_busy(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create_with_an_error(client, monkeypatch, PoolTimeout()) == (503, "BUSY")


def test_an_event_may_be_in_the_past(client: Client) -> None:
    assert client.find_event(client.create_event(date="0001-01-01T00:00:00Z"))["date"].startswith(
        "0001"
    )
    assert client.find_event(client.create_event(date="9999-12-31T23:59:59.999999Z"))


def test_an_unknown_event_is_not_found(client: Client) -> None:
    response = client.get("/events/018f0000-0000-7000-8000-000000000001")
    assert code(response) == (404, "NOT_FOUND")


def test_an_unchanged_event_is_not_sent_again(client: Client) -> None:
    event = client.create_event()
    etag = client.get(f"/events/{event}").headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = client.get(f"/events/{event}", headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["ETag"]) == (
            304,
            b"",
            etag,
        )
    client.hold(event)
    response = client.get(f"/events/{event}", headers={"If-None-Match": etag})
    assert (response.status_code, response.headers["ETag"] != etag) == (200, True)


def test_a_change_made_with_sql_changes_the_etag(client: Client, database: Database) -> None:
    event = client.create_event()
    etag = client.get(f"/events/{event}").headers["ETag"]
    database.psql("update events set name = 'in psql'")
    response = client.get(f"/events/{event}", headers={"If-None-Match": etag})
    assert (response.status_code, response.json()["name"]) == (200, "in psql")


@not_on_citus("a schema has no settings")
@skip_if_pooled("a DateStyle that is not ISO is refused at the start")
def test_the_defaults_of_the_server_do_not_matter(database: Database, start: Starter) -> None:
    name = database.psql("select current_database()")[0]
    for setting, value in {
        "default_transaction_isolation": "serializable",
        "datestyle": "SQL, DMY",
        "timezone": "Asia/Kolkata",
        "client_encoding": "LATIN1",
    }.items():
        database.psql(f"alter database {name} set {setting} = '{value}'")
    with start(database).client() as client:
        body = {"name": "日本", "date": "2030-06-01T20:00:00Z", "totalTickets": 5}
        responses = at_once(*[lambda: client.post("/events", json=body)] * 10)
        assert sorted(response.status_code for response in responses) == [201] + [409] * 9
        (event,) = client.get("/events", params={"q": "本"}).json()["data"]
        assert (event["name"], event["date"]) == ("日本", "2030-06-01T20:00:00Z")
        reservations = at_once(
            *[lambda n=n: client.reserve(event["id"], user=f"u{n}") for n in range(9)]
        )
        assert sorted(response.status_code for response in reservations) == [201] * 5 + [409] * 4


def test_events_are_listed_by_date_page_by_page(client: Client) -> None:
    for day in (3, 1, 2):
        client.create_event(name=f"day {day}", date=f"2030-01-0{day}T20:00:00Z")
    first = client.get("/events", params={"limit": 2}).json()
    assert [event["name"] for event in first["data"]] == ["day 1", "day 2"]
    assert first["meta"] == {"total": 3, "page": 1, "limit": 2, "pages": 2}
    assert list(first["data"][0]) == FIELDS
    second = client.get("/events", params={"limit": 2, "page": 2}).json()
    assert [event["name"] for event in second["data"]] == ["day 3"]
    beyond = client.get("/events", params={"page": 2147483647, "limit": 100}).json()
    assert (beyond["data"], beyond["meta"]["total"]) == ([], 3)


def test_a_walk_by_date_misses_no_event_that_a_page_would(client: Client) -> None:
    events = [
        client.create_event(1, name=f"Day {day}", date=f"2030-01-0{day}T20:00:00Z")
        for day in range(1, 5)
    ]

    def list_events(**query: str | int) -> list[str]:
        response = client.get("/events", params={"available": "true", "limit": 2, **query})
        return [event["id"] for event in response.json()["data"]]

    assert list_events(page=1) == events[:2]
    client.hold(events[0])  # which is sold out now, and leaves the list
    assert list_events(page=2) == events[3:]
    assert list_events(**{"from": "2030-01-02T20:00:00Z"}) == events[1:3]


def test_an_empty_list_has_no_pages(client: Client) -> None:
    assert client.get("/events").json() == {
        "data": [],
        "meta": {"total": 0, "page": 1, "limit": 10, "pages": 0},
    }


def test_the_list_of_events_is_filtered(client: Client) -> None:
    for day in (1, 2, 3):
        client.create_event(name=f"Día {day}", date=f"2030-01-0{day}T20:00:00Z", tickets=1)

    def names(**query: str) -> list[str]:
        return [event["name"] for event in client.get("/events", params=query).json()["data"]]

    assert names(**{"from": "2030-01-02T20:00:00Z"}) == ["Día 2", "Día 3"]
    assert names(to="2030-01-02T20:00:00Z") == ["Día 1"]
    assert names(**{"from": "2030-01-03T00:00:00Z", "to": "2030-01-01T00:00:00Z"}) == []
    assert names(q="DÍA 3") == ["Día 3"]
    assert names(q="%") == []
    sold_out = client.get("/events", params={"q": "día 1"}).json()["data"][0]["id"]
    client.hold(sold_out)
    assert names(available="true") == ["Día 2", "Día 3"]
    assert len(names(available="false")) == 3


def test_an_event_can_be_renamed_moved_and_resized(client: Client, database: Database) -> None:
    event = client.create_event(tickets=5)
    renamed = client.update_event(event, name="New").json()
    assert (renamed["name"], renamed["version"], renamed["totalTickets"]) == ("New", 2, 5)
    resized = client.update_event(event, totalTickets=8, date="2031-01-01T00:00:00Z").json()
    assert (resized["totalTickets"], resized["version"]) == (8, 3)
    changes = "select last_event from event_ledger order by version"
    assert database.psql(changes) == ["created", "updated", "resized"]


def test_an_update_that_changes_nothing_keeps_the_version(client: Client) -> None:
    event = client.create_event(tickets=5)
    response = client.update_event(event, totalTickets=5)
    assert (response.status_code, response.json()["version"]) == (200, 1)


def test_an_event_does_not_shrink_below_its_allocated_tickets(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=5)
    tickets = client.hold(event, quantity=3)
    response = client.update_event(event, totalTickets=2)
    assert code(response) == (409, "CAPACITY_BELOW_ALLOCATED")
    assert response.json()["details"] == {"allocatedTickets": 3}
    assert client.update_event(event, totalTickets=3).json()["availableTickets"] == 0
    database.expire_hold(tickets[0])
    assert client.update_event(event, totalTickets=2).status_code == 200


def test_an_event_cannot_take_the_name_of_another(client: Client) -> None:
    taken, event = client.create_event(name="taken"), client.create_event(name="event")
    assert code(client.update_event(event, name="taken")) == (409, "EVENT_EXISTS")
    assert client.find_event(event)["name"] == "event"
    assert client.find_event(taken)["version"] == 1


@pytest.mark.parametrize("name", ["Caf\u00e9", "Cafe\u0301"], ids=["composed", "decomposed"])
def test_a_name_is_one_however_its_accents_are_typed(client: Client, name: str) -> None:
    event, other = client.create_event(name=name), client.create_event(name="Other")
    assert client.find_event(event)["name"] == "Caf\u00e9"
    for spelling in ("Caf\u00e9", "Cafe\u0301"):
        body = {"name": spelling, "date": "2030-01-01T20:00:00Z", "totalTickets": 5}
        assert code(client.post("/events", json=body)) == (409, "EVENT_EXISTS")
        assert code(client.update_event(other, name=spelling)) == (409, "EVENT_EXISTS")
        assert client.update_event(event, name=spelling).json()["version"] == 1


def test_the_length_of_a_name_is_counted_in_nfc(client: Client) -> None:
    event = client.create_event(name="e\u0301" * 255)
    assert client.find_event(event)["name"] == "\u00e9" * 255
    # In NFC this letter is two characters.
    for name in ("e\u0301" * 256, "\u0958" * 128, "e\u0301\u0316" * 5000):
        assert code(client.update_event(event, name=name)) == (400, "BAD_REQUEST")
    assert client.update_event(event, name="\u0958" * 127).status_code == 200


def test_an_unknown_event_is_not_updated(client: Client) -> None:
    response = client.update_event("018f0000-0000-7000-8000-000000000001", name="x")
    assert code(response) == (404, "NOT_FOUND")


def test_an_event_inserted_with_sql_is_complete(client: Client, database: Database) -> None:
    database.psql("insert into events (name, date, total_tickets) values ('in psql', now(), 2)")
    (event,) = client.get("/events").json()["data"]
    assert client.reserve(event["id"], quantity=2).status_code == 201
    assert client.find_event(event["id"])["version"] == 2


def test_a_refused_rename_does_not_fail_other_changes(client: Client, database: Database) -> None:
    client.create_event(name="taken")
    event = client.create_event(name="event", tickets=20)
    responses = at_once(
        *[lambda n=n: client.reserve(event, user=f"user-{n}") for n in range(10)],
        lambda: client.update_event(event, name="taken"),
        *[lambda n=n: client.reserve(event, user=f"user-{n}") for n in range(10, 20)],
    )
    assert sorted(response.status_code for response in responses) == [201] * 20 + [409]


def test_the_organizers_routes_require_the_token_if_one_is_set(
    database: Database, start: Starter
) -> None:
    with start(database, organizer_token="s3cret").client() as client:
        body = {"name": "Gig", "date": "2030-06-01T20:00:00Z", "totalTickets": 5}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            response = client.post("/events", json=body, headers=headers)
            assert code(response) == (401, "UNAUTHORIZED")
        allowed = {"Authorization": "Bearer s3cret"}
        event = client.post("/events", json=body, headers=allowed).json()["id"]
        assert client.patch(f"/events/{event}", json={"name": "x"}).status_code == 401
        (ticket,) = client.hold(event)
        client.pay(ticket)
        assert code(client.refund(ticket)) == (401, "UNAUTHORIZED")
        assert client.find_ticket(ticket).json()["status"] == "purchased"


def test_the_etag_of_a_moment_changes_with_the_name(client: Client) -> None:
    """A moment of the past shows the name as it is now."""
    event = client.create_event()
    moment = f"/events/{event}?at={client.find_event(event)['updatedAt']}"
    before = client.get(moment)
    known = {"If-None-Match": before.headers["ETag"]}
    assert client.get(moment, headers=known).status_code == 304
    assert client.update_event(event, name="Closing night").status_code == 200
    after = client.get(moment, headers=known)
    assert (after.status_code, after.json()["name"]) == (200, "Closing night")
    # Its terms and its revision are those of now, too.
    changed = {"name": "", "revision": 0}
    assert {**after.json(), **changed} == {**before.json(), **changed}
