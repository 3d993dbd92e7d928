"""The terms of a sale: opening and closing times, a limit for each person, the length of a hold."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service import limits
from tests.support.citus import not_on_citus
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.waiting import at_once

pytestmark = pytest.mark.core

BEFORE = "2001-01-01T00:00:00Z"
AFTER = "2100-01-01T00:00:00Z"


def bad_fields(response: Any) -> list[str]:
    """Return the fields that a refusal names."""
    assert code(response) == (400, "BAD_REQUEST"), response.text
    return [detail["field"] for detail in response.json()["details"]]


@pytest.mark.parametrize(
    ("terms", "status", "refusal"),
    [
        ({}, "open", None),
        ({"saleOpensAt": BEFORE, "saleClosesAt": AFTER}, "open", None),
        ({"saleOpensAt": AFTER}, "upcoming", ("SALE_NOT_OPEN", {"saleOpensAt": AFTER})),
        ({"saleClosesAt": BEFORE}, "closed", ("SALE_CLOSED", {"saleClosesAt": BEFORE})),
        ({"saleOpensAt": "now"}, "open", None),
        ({"saleClosesAt": "now"}, "closed", "SALE_CLOSED"),
    ],
)
def test_tickets_are_reserved_only_while_the_sale_is_open(
    client: Client, terms: dict[str, Any], status: str, refusal: Any
) -> None:
    event = client.create_event(**terms)
    assert client.find_event(event)["saleStatus"] == status
    response = client.reserve(event)
    if refusal is None:
        assert response.status_code == 201
    elif isinstance(refusal, str):
        assert code(response) == (409, refusal)
    else:
        assert code(response) == (409, refusal[0])
        assert response.json()["details"] == refusal[1]


def test_a_refusal_before_the_opening_says_when_to_try_again(client: Client) -> None:
    opens_at = datetime.now(UTC) + timedelta(seconds=100)
    event = client.create_event(saleOpensAt=opens_at.isoformat())
    assert 90 < int(client.reserve(event).headers["Retry-After"]) <= 101
    event = client.create_event(name="Later", saleOpensAt=AFTER)
    assert client.reserve(event).headers["Retry-After"] == "3600"


def test_the_opening_is_inclusive_and_the_closing_exclusive(database: Database) -> None:
    at = "timestamptz '2030-01-01 20:00+00'"
    second = "interval '1 microsecond'"
    assert database.psql(
        f"select sale_status_at({at}, {at} + {second}, {at} - {second}),"
        f"sale_status_at({at}, {at} + {second}, {at}),"
        f"sale_status_at({at}, {at} + {second}, {at} + {second})"
    ) == ["upcoming|open|closed"]


def test_a_replay_is_answered_whatever_the_terms_say_now(client: Client) -> None:
    event = client.create_event()
    tickets = client.reserve(event, 3, "alice", "order-1")
    for terms in (
        {"saleOpensAt": AFTER},
        {"saleOpensAt": None, "saleClosesAt": "now"},
        {"saleClosesAt": None, "maxTicketsPerPerson": 1},
    ):
        client.update_event(event, **terms).raise_for_status()
        again = client.reserve(event, 3, "alice", "order-1")
        assert (again.status_code, again.json()) == (201, tickets.json())
        assert again.headers["Idempotency-Replayed"] == "true"


def test_a_hold_that_was_made_in_time_is_paid_or_cancelled_after_the_close(client: Client) -> None:
    event = client.create_event()
    first, second = client.hold(event, 2)
    client.update_event(event, saleClosesAt="now").raise_for_status()
    assert code(client.reserve(event)) == (409, "SALE_CLOSED")
    assert client.pay(first).status_code == 200
    assert client.cancel(second).status_code == 200


@pytest.mark.parametrize("term", ["saleOpensAt", "saleClosesAt"])
def test_now_is_the_time_of_the_database_after_the_lock(
    client: Client, database: Database, term: str
) -> None:
    event = client.create_event()
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event):
            update = pool.submit(client.update_event, event, **{term: "now"})
            database.wait_until_blocked()
            (locked_until,) = database.psql("select clock_timestamp()")
        now = datetime.fromisoformat(update.result().json()[term])
    assert now > datetime.fromisoformat(locked_until)


def test_a_sale_that_closes_during_the_wait_is_closed(client: Client, database: Database) -> None:
    event = client.create_event()
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            reserved = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            rival.execute("update events set sale_closes_at = clock_timestamp()")
        assert code(reserved.result()) == (409, "SALE_CLOSED")


@not_on_citus("a hold begins by the coordinator's clock, and its row by the worker's")
def test_an_event_has_its_own_hold_length(client: Client) -> None:
    event = client.create_event(holdSeconds=60)
    (ticket,) = client.reserve(event).json()
    length = datetime.fromisoformat(ticket["expiresAt"]) - datetime.fromisoformat(
        ticket["createdAt"]
    )
    assert length == timedelta(seconds=60)


def test_the_limit_counts_live_holds_and_purchases(client: Client, database: Database) -> None:
    event = client.create_event(tickets=20, maxTicketsPerPerson=4)
    bought, _, cancelled, lapsed = client.hold(event, 4, "bob")
    client.pay(bought, "bob").raise_for_status()
    response = client.reserve(event, 1, "bob")
    assert code(response) == (409, "LIMIT_REACHED")
    assert response.json()["details"] == {"maxTicketsPerPerson": 4, "held": 3, "purchased": 1}
    client.cancel(cancelled, "bob").raise_for_status()
    database.expire_hold(lapsed)
    response = client.reserve(event, 3, "bob")
    assert code(response) == (409, "LIMIT_REACHED")
    assert response.json()["details"] == {"maxTicketsPerPerson": 4, "held": 1, "purchased": 1}
    assert client.reserve(event, 2, "bob").status_code == 201
    client.refund(bought).raise_for_status()
    assert client.reserve(event, 1, "bob").status_code == 201
    assert code(client.reserve(event, 1, "bob")) == (409, "LIMIT_REACHED")
    # Another person, and the same person for another event, have limits of their own.
    assert client.reserve(event, 4, "carol").status_code == 201
    assert client.reserve(client.create_event(name="Other"), 10, "bob").status_code == 201


def test_tickets_of_another_event_do_not_count(client: Client) -> None:
    other = client.create_event(name="Other", maxTicketsPerPerson=2)
    client.hold(other, 2, "bob")
    event = client.create_event(maxTicketsPerPerson=2)
    assert client.reserve(event, 2, "bob").status_code == 201


def test_a_lapsed_hold_that_is_locked_does_not_count(client: Client, database: Database) -> None:
    event = client.create_event(maxTicketsPerPerson=1)
    (ticket,) = client.hold(event)
    database.expire_hold(ticket)
    with database.connect() as stranger:
        # So it cannot expire.
        stranger.execute("select from ticket_allocations for update")
        assert client.reserve(event).status_code == 201


def test_a_limit_comes_before_sold_out_and_after_the_times(client: Client) -> None:
    event = client.create_event(tickets=2, maxTicketsPerPerson=2)
    client.hold(event, 2, "bob")
    assert code(client.reserve(event, 1, "bob")) == (409, "LIMIT_REACHED")
    assert code(client.reserve(event, 1, "carol")) == (409, "TICKETS_SOLD_OUT")
    client.update_event(event, saleClosesAt="now").raise_for_status()
    assert code(client.reserve(event, 1, "bob")) == (409, "SALE_CLOSED")


def test_a_limit_below_what_somebody_has_takes_nothing_from_them(client: Client) -> None:
    event = client.create_event()
    tickets = client.hold(event, 3, "bob")
    client.update_event(event, maxTicketsPerPerson=1).raise_for_status()
    assert client.pay(tickets[0], "bob").status_code == 200
    response = client.reserve(event, 1, "bob")
    assert response.json()["details"] == {"maxTicketsPerPerson": 1, "held": 2, "purchased": 1}


def test_a_batch_judges_each_person_in_the_order_of_arrival(
    client: Client, database: Database, service: RunningService
) -> None:
    event = client.create_event(tickets=6, maxTicketsPerPerson=3)
    requests = [
        ("bob", 2, 201),
        ("bob", 2, "LIMIT_REACHED"),  # he has two
        ("bob", 1, 201),
        ("bob", 1, "LIMIT_REACHED"),
        ("carol", 4, "LIMIT_REACHED"),  # takes nothing from those behind
        ("carol", 3, 201),
        ("dave", 1, "TICKETS_SOLD_OUT"),
    ]
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        with database.lock_event(event):
            results = []
            for count, (user, quantity, _) in enumerate(requests, 1):
                results.append(pool.submit(client.reserve, event, quantity, user))
                service.wait_until_accepted(count)
        outcomes = [result.result() for result in results]
    assert [r.json().get("code") if r.status_code == 409 else 201 for r in outcomes] == [
        expected for _, _, expected in requests
    ]


def test_a_request_is_not_refused_for_tickets_that_the_first_did_not_get(
    client: Client, database: Database, service: RunningService
) -> None:
    event = client.create_event(tickets=2, maxTicketsPerPerson=3)
    with ThreadPoolExecutor(2) as pool:
        with database.lock_event(event):
            first = pool.submit(client.reserve, event, 3, "bob")
            service.wait_until_accepted(1)
            second = pool.submit(client.reserve, event, 2, "bob")
            service.wait_until_accepted(2)
        assert code(first.result()) == (409, "NOT_ENOUGH_TICKETS")
        assert second.result().status_code == 201


def test_everybody_of_a_crowd_ends_with_exactly_the_limit(
    database: Database, start: Starter
) -> None:
    people = [f"person-{number}" for number in range(40)]
    requests = people * 40
    with start(database).client() as one, start(database).client() as other:
        event = one.create_event(tickets=1000, maxTicketsPerPerson=3)
        with ThreadPoolExecutor(64) as pool:
            clients = (one, other)
            responses = list(
                pool.map(
                    lambda n: clients[n % 2].reserve(event, 1, requests[n]), range(len(requests))
                )
            )
        assert Counter(response.status_code for response in responses) == {201: 120, 409: 1480}
        owners = database.psql("select user_fingerprint from ticket_allocations")
    assert Counter(owners) == dict.fromkeys(people, 3)


def test_one_person_with_five_hundred_requests_keeps_nobody_out(client: Client) -> None:
    event = client.create_event(tickets=100, maxTicketsPerPerson=2)
    with ThreadPoolExecutor(60) as pool:
        greedy = [pool.submit(client.reserve, event, 1, "greedy") for _ in range(500)]
        others = [pool.submit(client.reserve, event, 1, f"person-{n}") for n in range(98)]
        assert {other.result().status_code for other in others} == {201}
        assert Counter(one.result().status_code for one in greedy) == {201: 2, 409: 498}


def test_each_reservation_around_the_opening_is_judged_by_the_clock_of_the_database(
    client: Client, database: Database
) -> None:
    (opens_at,) = database.psql("select statement_timestamp() + interval '1 s'")
    (closes_at,) = database.psql(f"select timestamptz '{opens_at}' + interval '1 s'")
    event = client.create_event(
        tickets=10_000,
        saleOpensAt=opens_at.replace(" ", "T") + ":00",
        saleClosesAt=closes_at.replace(" ", "T") + ":00",
    )
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool:
        while not outcomes["SALE_CLOSED"]:
            responses = pool.map(lambda _: client.reserve(event), range(50))
            outcomes.update(
                "granted" if r.status_code == 201 else r.json()["code"] for r in responses
            )
    assert outcomes["SALE_NOT_OPEN"]
    assert database.psql(
        "select count(*), bool_and(tickets.created_at >= sale_opens_at"
        " and tickets.created_at < sale_closes_at)"
        " from ticket_allocations as tickets inner join events on events.id = event_id"
    ) == [f"{outcomes['granted']}|t"]


@pytest.mark.parametrize(
    ("terms", "fields"),
    [
        ({"saleOpensAt": "2030-01-01T00:00:00"}, ["saleOpensAt"]),
        ({"saleClosesAt": "tomorrow"}, ["saleClosesAt"]),
        ({"saleOpensAt": 5, "holdSeconds": 0}, ["saleOpensAt", "holdSeconds"]),
        ({"holdSeconds": -1}, ["holdSeconds"]),
        ({"maxHoldSeconds": 31_536_001}, ["maxHoldSeconds"]),
        ({"maxTicketsPerPerson": 0}, ["maxTicketsPerPerson"]),
        ({"maxTicketsPerPerson": 2**31}, ["maxTicketsPerPerson"]),
        ({"saleOpensAt": AFTER, "saleClosesAt": AFTER}, ["saleOpensAt", "saleClosesAt"]),
        ({"saleOpensAt": "now", "saleClosesAt": BEFORE}, ["saleOpensAt", "saleClosesAt"]),
        (
            {"saleOpensAt": AFTER, "saleClosesAt": BEFORE, "holdSeconds": 2, "maxHoldSeconds": 1},
            ["saleOpensAt", "saleClosesAt", "holdSeconds", "maxHoldSeconds"],
        ),
    ],
)
def test_bad_terms_are_refused_and_nothing_is_written(
    client: Client, terms: dict[str, Any], fields: list[str]
) -> None:
    body = {"name": "Gig", "date": "2030-01-01T20:00:00Z", "totalTickets": 5}
    assert bad_fields(client.post("/events", json={**body, **terms})) == fields
    assert client.get("/events").json()["data"] == []
    event = client.create_event()
    before = client.find_event(event)
    assert bad_fields(client.update_event(event, **terms)) == fields
    assert client.find_event(event) == before


def test_a_change_of_terms_is_judged_on_the_whole_event(client: Client) -> None:
    event = client.create_event(saleClosesAt=AFTER, holdSeconds=60)
    assert bad_fields(client.update_event(event, saleOpensAt="2100-01-01T00:00:01Z"))
    assert bad_fields(client.update_event(event, maxHoldSeconds=59)) == [
        "holdSeconds",
        "maxHoldSeconds",
    ]
    # Together they are right.
    changes = {"saleOpensAt": "2100-01-01T00:00:01Z", "saleClosesAt": None, "maxHoldSeconds": 60}
    assert client.update_event(event, **changes).json()["saleStatus"] == "upcoming"


def test_null_clears_a_term_and_a_change_without_it_keeps_it(client: Client) -> None:
    terms: dict[str, Any] = {
        "saleOpensAt": BEFORE,
        "saleClosesAt": AFTER,
        "holdSeconds": 60,
        "maxHoldSeconds": 120,
        "maxTicketsPerPerson": 4,
    }
    event = client.create_event(**terms)
    updated = client.update_event(event, name="New").json()
    assert {name: updated[name] for name in terms} == terms
    cleared = client.update_event(event, **dict.fromkeys(terms)).json()
    assert [cleared[name] for name in terms] == [None] * 5


def test_a_change_of_terms_is_a_version_and_a_revision(client: Client) -> None:
    event = client.create_event()
    client.hold(event)
    updated = client.update_event(event, maxTicketsPerPerson=2).json()
    assert (updated["version"], updated["revision"]) == (3, 2)
    assert (
        client.get(f"/events/{event}/ledger").json()["data"][-1]["lastEvent"]["type"] == "updated"
    )
    again = client.update_event(event, maxTicketsPerPerson=2).json()
    assert (again["version"], again["revision"]) == (3, 2)


def test_events_are_listed_by_the_status_of_their_sale(client: Client) -> None:
    client.create_event(name="upcoming", saleOpensAt=AFTER)
    client.create_event(name="open")
    client.create_event(name="closed", saleClosesAt=BEFORE)

    def names(**query: str) -> list[str]:
        return [event["name"] for event in client.get("/events", params=query).json()["data"]]

    for status in ("upcoming", "open", "closed"):
        assert names(saleStatus=status) == [status]
    assert names(available="true") == ["open"]
    assert names(available="true", saleStatus="closed") == []
    assert bad_fields(client.get("/events", params={"saleStatus": "soon"})) == ["saleStatus"]


def test_the_etag_changes_when_the_sale_opens(client: Client, database: Database) -> None:
    event = client.create_event(saleOpensAt=AFTER)
    upcoming = client.get(f"/events/{event}")
    # As if the clock had passed the opening: nothing else about the event is different.
    database.psql(
        "alter table events disable trigger all;"
        f"update events set sale_opens_at = '{BEFORE}'; alter table events enable trigger all"
    )
    opened = client.get(f"/events/{event}", headers={"If-None-Match": upcoming.headers["ETag"]})
    assert opened.status_code == 200
    assert (opened.json()["saleStatus"], opened.json()["version"]) == ("open", 1)


@not_on_citus("the event is made by the coordinator's clock, and its ledger by the worker's")
def test_a_time_in_the_past_shows_the_terms_of_now(client: Client) -> None:
    event = client.create_event()
    created_at = client.find_event(event)["updatedAt"]
    client.update_event(event, saleClosesAt="now").raise_for_status()
    past = client.get(f"/events/{event}", params={"at": created_at}).json()
    assert (past["version"], past["saleStatus"]) == (1, "closed")


def test_two_organizers_do_not_overwrite_each_other(client: Client) -> None:
    event = client.create_event()
    revision = client.find_event(event)["revision"]
    client.hold(event)  # a sale changes the version, but not the revision
    responses = at_once(
        *[
            lambda name=name: client.update_event(event, name=name, revision=revision)
            for name in ("One", "Two")
        ]
    )
    assert sorted(response.status_code for response in responses) == [200, 409]
    (refused,) = [response for response in responses if response.status_code == 409]
    assert code(refused) == (409, "EVENT_CHANGED")
    assert refused.json()["details"] == {"revision": revision + 1}
    (granted,) = [response for response in responses if response.status_code == 200]
    assert client.find_event(event) == granted.json()


def test_contradictory_terms_are_refused_before_an_old_revision(client: Client) -> None:
    event = client.create_event()
    client.update_event(event, name="New").raise_for_status()
    terms = {"saleOpensAt": AFTER, "saleClosesAt": BEFORE, "revision": 1}
    assert bad_fields(client.update_event(event, **terms)) == ["saleOpensAt", "saleClosesAt"]


def test_if_match_is_compared_with_the_current_etag(client: Client, database: Database) -> None:
    event = client.create_event()
    etag = client.get(f"/events/{event}").headers["ETag"]

    def update(if_match: str, **changes: Any) -> Any:
        return client.patch(f"/events/{event}", json=changes, headers={"If-Match": if_match})

    for stale in ('"1-1-1"', f"W/{etag}", etag.strip('"'), '"9-9-9-open"', ""):
        assert code(update(stale, name="New")) == (412, "PRECONDITION_FAILED")
    updated = update(f'"other", {etag}', name="New")
    assert updated.status_code == 200
    assert updated.headers["ETag"] == client.get(f"/events/{event}").headers["ETag"]
    assert code(update(etag, name="Newer")) == (412, "PRECONDITION_FAILED")
    assert update("*", name="Newest").status_code == 200
    unknown = "/events/018f0000-0000-7000-8000-000000000001"
    assert code(client.patch(unknown, json={"name": "x"}, headers={"If-Match": etag})) == (
        404,
        "NOT_FOUND",
    )
    # A hold whose time is up counts as available, swept or not.
    (ticket,) = client.hold(event)
    database.expire_hold(ticket)
    lapsed = client.get(f"/events/{event}").headers["ETag"]
    assert update(lapsed, name="After the hold").status_code == 200
    assert client.find_event(event)["allocatedTickets"] == 0


@pytest.mark.parametrize("part", range(4), ids=["version", "available", "time", "sale status"])
def test_each_part_of_an_etag_counts_in_if_match(client: Client, part: int) -> None:
    event = client.create_event(saleOpensAt=AFTER)
    parts = client.get(f"/events/{event}").headers["ETag"].strip('"').split("-")
    parts[part] = "open" if parts[part] == "upcoming" else f"{int(parts[part], 16) + 1:x}"
    headers = {"If-Match": f'"{"-".join(parts)}"'}
    response = client.patch(f"/events/{event}", json={"name": "New"}, headers=headers)
    assert code(response) == (412, "PRECONDITION_FAILED")


def test_if_match_names_the_state_of_the_largest_event(client: Client) -> None:
    event = client.create_event(tickets=2_147_483_647)
    etag = client.get(f"/events/{event}").headers["ETag"]
    for if_match, status in (('"1-9999999999-1-open"', 412), (etag, 200)):
        response = client.patch(
            f"/events/{event}", json={"name": "New"}, headers={"If-Match": if_match}
        )
        assert response.status_code == status, response.text


def test_if_match_holds_while_a_change_takes_several_transactions(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expiry of the first transaction changes the ETag that the request names."""
    monkeypatch.setattr(limits, "SWEEP_TICKETS", 2)
    event = client.create_event(tickets=10)
    for ticket in client.hold(event, 9):
        database.expire_hold(ticket)
    etag = client.get(f"/events/{event}").headers["ETag"]
    shrink = {"json": {"totalTickets": 1}, "headers": {"If-Match": etag}}
    updated = client.request("PATCH", f"/events/{event}", **shrink)
    assert (updated.status_code, updated.json()["totalTickets"]) == (200, 1)
    assert len(database.psql("select version from event_ledger where last_event = 'expired'")) > 1
    assert code(client.request("PATCH", f"/events/{event}", **shrink))[0] == 412


def test_two_organizers_with_one_etag_do_not_overwrite_each_other(client: Client) -> None:
    event = client.create_event()
    etag = client.get(f"/events/{event}").headers["ETag"]
    responses = at_once(
        *[
            lambda name=name: client.patch(
                f"/events/{event}", json={"name": name}, headers={"If-Match": etag}
            )
            for name in ("One", "Two", "Three")
        ]
    )
    assert sorted(response.status_code for response in responses) == [200, 412, 412]
