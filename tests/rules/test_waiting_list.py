"""The waiting list: joining, offers in the order of the line, leaving, and what outsiders get."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.rows import Uuid
from service.write_path.changes import Leave
from tests.support.batches import carry_out, outcome_codes
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.waiting import wait_until

pytestmark = pytest.mark.core


@pytest.fixture
def swept(start: Starter, database: Database) -> Iterator[Client]:
    """A client of a service whose sweeper runs all the time."""
    with start(database).client() as client:
        yield client


def sell_out(client: Client, tickets: int = 2, **terms: Any) -> tuple[str, list[str]]:
    """Create an event whose tickets are all held by Owen, and return it with the tickets."""
    event = client.create_event(totalTickets=tickets, **terms)
    return event, [client.hold(event, 1, user="owen")[0] for _ in range(tickets)]


def state(client: Client, entry: dict[str, Any], user: str) -> str:
    """Return the state of an entry."""
    return str(client.find_entry(entry["id"], user).json()["state"])


def wait_for_state(client: Client, entry: dict[str, Any], user: str, expected: str) -> None:
    """Wait until an entry has a state."""
    wait_until(lambda: state(client, entry, user) == expected)


def test_an_entry_waits_with_its_place_in_the_line(client: Client) -> None:
    event, _ = sell_out(client)
    first = client.join_line(event, 2, "alice")
    assert first.status_code == 201
    assert first.headers["Location"] == f"/waiting/{first.json()['id']}"
    assert first.json() == {
        "id": first.json()["id"],
        "eventId": event,
        "quantity": 2,
        "state": "waiting",
        "ahead": {"entries": 0, "tickets": 0},
        "reservationId": None,
        "offerExpiresAt": None,
        "createdAt": first.json()["createdAt"],
        "updatedAt": first.json()["updatedAt"],
        "userFingerprint": "alice",
    }
    second = client.join_line(event, 1, "bob").json()
    assert second["ahead"] == {"entries": 1, "tickets": 2}
    assert client.find_entry(second["id"], "bob").json() == second
    found = client.find_event(event)
    assert found["waitingTickets"] == 3
    entry = client.list_ledger(event).json()["data"][-1]
    assert (entry["lastEvent"]["type"], entry["waitingTickets"]) == ("joined", 3)
    moves = ("reserved", "purchased", "expired", "cancelled", "refunded")
    assert [entry[kind] for kind in moves] == [0] * 5


def test_who_finds_tickets_and_nobody_ahead_has_an_offer_at_once(client: Client) -> None:
    event = client.create_event(totalTickets=3)
    entry = client.join_line(event, 2).json()
    assert (entry["state"], entry["ahead"]) == ("offered", None)
    reservation = client.find_reservation(entry["reservationId"]).json()
    assert reservation["status"] == "reserved"
    assert len(reservation["tickets"]) == 2
    assert entry["offerExpiresAt"] == reservation["expiresAt"]
    assert client.pay_reservation(entry["reservationId"]).status_code == 200
    assert state(client, entry, "alice") == "fulfilled"
    assert client.find_event(event)["waitingTickets"] == 0
    # The line is empty, so the last ticket is for anybody.
    assert client.reserve(event, 1, user="bob").status_code == 201


@pytest.mark.parametrize("way", ["cancel", "refund", "expire", "resize", "leave"])
def test_what_becomes_available_is_offered_to_the_first_in_line(
    swept: Client, database: Database, way: str
) -> None:
    client = swept
    event, (ticket, _) = sell_out(client)
    first = client.join_line(event, 1, "alice").json()
    second = client.join_line(event, 1, "bob").json()
    if way == "cancel":
        client.cancel(ticket, "owen")
    elif way == "refund":
        client.pay(ticket, "owen")
        client.refund(ticket)
    elif way == "expire":
        database.psql(f"update ticket_allocations set expires_at = now() where id = '{ticket}'")
    elif way == "resize":
        client.update_event(event, totalTickets=3)
    else:
        client.cancel(ticket, "owen")
        wait_for_state(client, first, "alice", "offered")
        assert client.leave_line(first["id"], "alice").json()["state"] == "left"
        wait_for_state(client, second, "bob", "offered")
        return
    wait_for_state(client, first, "alice", "offered")
    assert state(client, second, "bob") == "waiting"
    assert client.find_entry(second["id"], "bob").json()["ahead"] == {"entries": 0, "tickets": 0}
    kinds = [entry["lastEvent"]["type"] for entry in client.list_ledger(event).json()["data"]]
    assert kinds[-1] == "offered"


def test_an_offer_that_lapses_goes_to_the_next(swept: Client, database: Database) -> None:
    client = swept
    event, (ticket,) = sell_out(client, 1)
    first = client.join_line(event, 1, "alice").json()
    second = client.join_line(event, 1, "bob").json()
    client.cancel(ticket, "owen")
    wait_for_state(client, first, "alice", "offered")
    database.psql("update ticket_allocations set expires_at = now() where status = 'reserved'")
    wait_for_state(client, second, "bob", "offered")
    assert state(client, first, "alice") == "lapsed"
    assert code(client.leave_line(first["id"], "alice")) == (410, "HOLD_EXPIRED")
    # Its entry is over: who wants tickets joins again, at the end.
    again = client.join_line(event, 1, "alice")
    assert again.status_code == 201
    assert again.json()["id"] != first["id"]


def test_while_anybody_waits_nobody_else_is_granted_a_ticket(
    client: Client, database: Database
) -> None:
    event, (ticket, other) = sell_out(client)
    client.pay(other, "owen")
    client.join_line(event, 2, "alice")
    database.psql(f"update ticket_allocations set expires_at = now() where id = '{ticket}'")
    refused = client.reserve(event, 1, user="bob")
    assert code(refused) == (409, "WAITING_LIST_FIRST")
    assert refused.json()["details"] == {"availableTickets": 1, "waitingTickets": 2}
    # Nor is a late payment saved: the ticket is for those who wait.
    late = client.pay_late(ticket, "owen")
    assert code(late) == (410, "HOLD_EXPIRED")
    assert late.json()["details"] == {"availableTickets": 1, "waitingTickets": 2}
    assert client.get("/events", params={"available": "true"}).json()["data"] == []


def test_a_replay_is_answered_while_anybody_waits(client: Client) -> None:
    event = client.create_event(totalTickets=1)
    first = client.reserve(event, 1, user="owen", key="k")
    client.join_line(event, 1, "alice")
    again = client.reserve(event, 1, user="owen", key="k")
    assert (again.status_code, again.json()) == (201, first.json())


def test_a_group_is_offered_whole_or_not_at_all(client: Client) -> None:
    event, tickets = sell_out(client, 3)
    group = client.join_line(event, 3, "alice").json()
    for ticket in tickets[:2]:
        client.cancel(ticket, "owen")
    single = client.join_line(event, 1, "bob").json()
    # One passes the group; then two have come and gone, and the line waits for the group.
    assert single["state"] == "offered"
    assert state(client, group, "alice") == "waiting"
    client.cancel(tickets[2], "owen")
    assert state(client, group, "alice") == "waiting"


def test_an_entry_that_was_passed_by_its_quantity_blocks_the_line(client: Client) -> None:
    event, tickets = sell_out(client, 3)
    group = client.join_line(event, 2, "alice").json()
    for user, ticket in zip(["bob", "carol"], tickets, strict=False):
        client.cancel(ticket, "owen")
        entry = client.join_line(event, 1, user).json()
        assert entry["state"] == "offered"
        client.pay_reservation(entry["reservationId"], user)
    # Two tickets have passed it: the next one waits for the second.
    client.cancel(tickets[2], "owen")
    late = client.join_line(event, 1, "dave").json()
    assert late["state"] == "waiting"
    assert client.find_event(event)["availableTickets"] == 1
    client.update_event(event, totalTickets=4)
    wait_for_state(client, group, "alice", "offered")
    assert state(client, late, "dave") == "waiting"


def test_joining_again_returns_the_same_entry(client: Client, database: Database) -> None:
    event, (ticket,) = sell_out(client, 1)
    first = client.join_line(event, 1)
    again = client.join_line(event, 1)
    assert (again.status_code, again.json()) == (200, first.json())
    assert code(client.join_line(event, 2)) == (409, "ALREADY_WAITING")
    client.cancel(ticket, "owen")
    wait_for_state(client, first.json(), "alice", "offered")
    offered = client.join_line(event, 1)
    assert (offered.status_code, offered.json()["id"]) == (200, first.json()["id"])
    assert database.psql("select count(*) from waiting_entries") == ["1"]


def test_the_terms_of_the_sale_hold_for_joining(client: Client) -> None:
    opens = "2040-01-01T00:00:00Z"
    event = client.create_event(totalTickets=5, maxTicketsPerPerson=3, saleOpensAt=opens)
    refused = client.join_line(event, 1)
    assert code(refused) == (409, "SALE_NOT_OPEN")
    assert refused.headers["Retry-After"] == "3600"
    client.update_event(event, saleOpensAt=None, totalTickets=2)
    client.hold(event, 1)
    client.pay(client.hold(event, 1)[0])
    refused = client.join_line(event, 2)
    assert code(refused) == (409, "LIMIT_REACHED")
    assert refused.json()["details"] == {"maxTicketsPerPerson": 3, "held": 1, "purchased": 1}
    refused = client.join_line(event, 3, "bob")
    assert code(refused) == (409, "NOT_ENOUGH_TICKETS")
    assert refused.json()["details"] == {"availableTickets": 0}
    client.update_event(event, saleClosesAt="now")
    assert code(client.join_line(event, 1, "bob")) == (409, "SALE_CLOSED")
    assert client.find_event(event)["waitingTickets"] == 0


@pytest.mark.parametrize("quantity", [0, 11, "1", 1.5, None])
def test_a_bad_quantity_is_refused(client: Client, quantity: Any) -> None:
    event = client.create_event(totalTickets=1)
    assert code(client.join_line(event, quantity)) == (400, "BAD_REQUEST")
    assert client.find_event(event)["version"] == 1


def test_a_full_waiting_list_is_refused(start: Starter, database: Database) -> None:
    with start(database, MAX_WAITING_ENTRIES=2).client() as client:
        event, _ = sell_out(client, 3)
        first = client.join_line(event, 3, "alice").json()
        client.join_line(event, 1, "bob")
        assert code(client.join_line(event, 1, "carol")) == (409, "WAITING_LIST_FULL")
        assert client.join_line(event, 1, "bob").status_code == 200
        client.leave_line(first["id"], "alice")
        assert client.join_line(event, 1, "carol").status_code == 201


def test_who_leaves_waits_no_longer(client: Client) -> None:
    event, _ = sell_out(client, 1)
    first = client.join_line(event, 1, "alice").json()
    second = client.join_line(event, 1, "bob").json()
    left = client.leave_line(first["id"], "alice")
    assert (left.status_code, left.json()["state"], left.json()["ahead"]) == (200, "left", None)
    assert code(client.leave_line(first["id"], "alice")) == (409, "ALREADY_LEFT")
    assert client.find_entry(second["id"], "bob").json()["ahead"]["entries"] == 0
    assert client.find_event(event)["waitingTickets"] == 1
    entry = client.list_ledger(event).json()["data"][-1]
    assert (entry["lastEvent"]["type"], entry["cancelled"]) == ("left", 0)


def test_who_leaves_with_an_offer_gives_its_tickets_back(client: Client) -> None:
    event = client.create_event(totalTickets=3)
    entry = client.join_line(event, 2).json()
    ticket = client.find_reservation(entry["reservationId"]).json()["tickets"][0]["id"]
    client.transfer(ticket, "bob")
    assert client.leave_line(entry["id"]).json()["state"] == "left"
    # Bob keeps what was given to him.
    assert client.find_event(event)["allocatedTickets"] == 1
    assert client.pay(ticket, "bob").status_code == 200
    assert state(client, entry, "alice") == "left"


def test_nobody_leaves_with_a_purchased_ticket(client: Client) -> None:
    event = client.create_event(totalTickets=2)
    entry = client.join_line(event, 2).json()
    tickets = client.find_reservation(entry["reservationId"]).json()["tickets"]
    client.pay(tickets[0]["id"])
    assert code(client.leave_line(entry["id"])) == (409, "ALREADY_PURCHASED")
    assert state(client, entry, "alice") == "offered"  # the other ticket is still held
    client.cancel(tickets[1]["id"])
    client.refund(tickets[0]["id"])
    assert state(client, entry, "alice") == "fulfilled"  # one was purchased
    assert code(client.leave_line(entry["id"])) == (409, "ALREADY_PURCHASED")


def test_a_stranger_does_not_keep_an_owner_from_leaving_in_the_same_batch(
    client: Client, database: Database
) -> None:
    event, _ = sell_out(client, 1)
    entry = Uuid(client.join_line(event, 1).json()["id"])
    leaves = [Leave(Uuid(event), entry, user) for user in ("bob", "alice", "alice")]
    outcomes = outcome_codes(carry_out(database, leaves))
    assert outcomes == ["wrong_fingerprint", "granted", "already_left"]
    assert client.find_event(event)["waitingTickets"] == 0


def test_nobody_sees_or_leaves_the_entry_of_another(client: Client) -> None:
    event, _ = sell_out(client, 1)
    entry = client.join_line(event, 1).json()
    assert code(client.find_entry(entry["id"], "bob")) == (403, "WRONG_FINGERPRINT")
    assert code(client.leave_line(entry["id"], "bob")) == (403, "WRONG_FINGERPRINT")
    unknown = "018f0000-0000-7000-8000-000000000001"
    assert code(client.find_entry(unknown)) == (404, "NOT_FOUND")
    assert code(client.leave_line(unknown)) == (404, "NOT_FOUND")
    assert code(client.join_line(unknown)) == (404, "NOT_FOUND")
    assert state(client, entry, "alice") == "waiting"


@pytest.mark.parametrize("way", ["shrink", "limit"])
def test_an_entry_that_cannot_be_served_ends_and_blocks_nobody(client: Client, way: str) -> None:
    event, (ticket, *others) = sell_out(client, 4, maxTicketsPerPerson=4)
    if way == "limit":
        client.transfer(others[0], "alice", "owen")
    group = client.join_line(event, 3, "alice").json()
    single = client.join_line(event, 1, "bob").json()
    if way == "limit":
        client.transfer(others[1], "alice", "owen")
        client.cancel(ticket, "owen")
    else:
        client.cancel(ticket, "owen")
        client.leave_line(single["id"], "bob")
        client.cancel(others[0], "owen")
        client.update_event(event, totalTickets=2)
        client.cancel(others[1], "owen")
        single = client.join_line(event, 1, "bob").json()
    wait_for_state(client, single, "bob", "offered")
    found = client.find_entry(group["id"], "alice").json()
    assert (found["state"], found["reservationId"]) == ("lapsed", None)
    assert client.find_event(event)["waitingTickets"] == 0


def test_those_who_cannot_be_served_hide_nobody_behind_them(client: Client) -> None:
    # Three who cannot be served are as many as an offer reads of those who want one ticket.
    event = client.create_event(totalTickets=8)
    held = client.hold(event, 2, "owen")
    for user in ("ann", "ben", "cat"):
        client.hold(event, 2, user)
    for user in ("ann", "ben", "cat"):
        client.join_line(event, 1, user)
    single = client.join_line(event, 1, "dan").json()
    pair = client.join_line(event, 2, "eve").json()
    client.update_event(event, maxTicketsPerPerson=2)
    client.cancel_reservation(client.find_ticket(held[0]).json()["reservationId"], "owen")
    wait_for_state(client, single, "dan", "offered")
    assert state(client, pair, "eve") == "waiting"
    assert client.find_event(event)["waitingTickets"] == 2


def test_no_offer_is_made_before_the_opening_or_after_the_close(client: Client) -> None:
    event, (ticket,) = sell_out(client, 1)
    entry = client.join_line(event, 1, "alice").json()
    client.update_event(event, saleClosesAt="now")
    client.cancel(ticket, "owen")
    client.update_event(event, name="Closed")
    assert state(client, entry, "alice") == "waiting"
    client.update_event(event, saleClosesAt=None, saleOpensAt="2040-01-01T00:00:00Z")
    client.update_event(event, name="Not open")
    assert state(client, entry, "alice") == "waiting"
    client.update_event(event, saleOpensAt=None)
    wait_for_state(client, entry, "alice", "offered")


def test_the_list_shows_the_line_in_its_order(client: Client) -> None:
    event, (ticket, *_) = sell_out(client, 3)
    entries = [client.join_line(event, 1, user).json() for user in ("alice", "bob", "carol")]
    client.cancel(ticket, "owen")
    wait_for_state(client, entries[0], "alice", "offered")
    client.leave_line(entries[1]["id"], "bob")
    listed = client.list_line(event).json()
    assert [entry["id"] for entry in listed["data"]] == [entry["id"] for entry in entries]
    assert [entry["state"] for entry in listed["data"]] == ["offered", "left", "waiting"]
    assert not any("userFingerprint" in entry for entry in listed["data"])
    assert listed["data"][2]["ahead"] == {"entries": 0, "tickets": 0}
    assert listed["meta"] == {"limit": 10, "next": None}
    page = client.list_line(event, limit=2).json()
    assert page["meta"] == {"limit": 2, "next": entries[1]["id"]}
    rest = client.list_line(event, limit=2, after=entries[1]["id"]).json()
    assert [entry["id"] for entry in rest["data"]] == [entries[2]["id"]]
    for wanted in ("offered", "left", "waiting", "fulfilled", "lapsed"):
        found = client.list_line(event, state=wanted).json()["data"]
        assert [entry["id"] for entry in found] == [
            entry["id"] for entry in listed["data"] if entry["state"] == wanted
        ]
    assert code(client.list_line(event, after=event)) == (400, "BAD_REQUEST")
    assert code(client.list_line(event, state="gone")) == (400, "BAD_REQUEST")
    unknown = "018f0000-0000-7000-8000-000000000001"
    assert code(client.list_line(unknown)) == (404, "NOT_FOUND")
