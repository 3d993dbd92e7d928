"""Expiry: a hold is available as soon as its time is up, whether or not it has been swept."""

import pytest

from service.rows import Uuid
from tests.support.batches import carry_out, outcome_codes, reserve
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.waiting import wait_until

pytestmark = pytest.mark.core


def test_an_expired_hold_is_available_to_the_next_buyer(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event, user="alice")
    assert client.reserve(event, user="bob").status_code == 409
    database.expire_hold(ticket)
    assert client.reserve(event, user="bob").status_code == 201
    assert client.find_ticket(ticket).json()["status"] == "expired"


def test_an_expired_hold_is_available_in_every_read(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    etag = client.get(f"/events/{event}").headers["ETag"]
    database.expire_hold(ticket)
    counts = client.find_event(event)
    assert (counts["availableTickets"], counts["reservedTickets"], counts["version"]) == (1, 0, 2)
    page = client.get("/events", params={"available": "true"}).json()
    assert [event["availableTickets"] for event in page["data"]] == [1]
    assert client.find_ticket(ticket).json()["status"] == "expired"
    assert client.get(f"/events/{event}").headers["ETag"] != etag
    # The ticket has not been swept.
    assert database.psql("select status from ticket_allocations") == ["reserved"]


def test_the_sweeper_expires_holds_through_the_write_path(
    database: Database, start: Starter
) -> None:
    with start(database).client() as client:
        event = client.create_event(tickets=3)
        for ticket in client.hold(event, quantity=2):
            database.expire_hold(ticket)
        expired = "select sum(expired) from event_ledger"
        wait_until(lambda: database.psql(expired) == ["2"])
        assert database.psql("select distinct status from ticket_allocations") == ["expired"]
        assert database.psql("select allocated_tickets from events") == ["0"]


def test_expiry_never_takes_a_purchased_ticket(client: Client, database: Database) -> None:
    event = client.create_event(tickets=2)
    paid, expired = client.hold(event, quantity=2)
    client.pay(paid)
    database.expire_hold(expired)
    assert client.reserve(event, quantity=1, user="bob").status_code == 201
    assert client.find_ticket(paid).json()["status"] == "purchased"


def test_all_expired_holds_are_available_beyond_the_sweepers_limit(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 1)
    with start(database, sweeps=False).client() as client:
        event = client.create_event(tickets=6)
        client.hold(event, quantity=6)
        database.psql("update ticket_allocations set expires_at = statement_timestamp()")
        assert client.reserve(event, quantity=6, user="bob").status_code == 201


def test_an_event_can_shrink_by_all_its_expired_holds(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 1)
    with start(database, sweeps=False).client() as client:
        event = client.create_event(tickets=6)
        client.hold(event, quantity=6)
        database.psql("update ticket_allocations set expires_at = statement_timestamp()")
        response = client.update_event(event, totalTickets=1)
        assert (response.status_code, response.json()["availableTickets"]) == (200, 1)
    # One hold in each transaction, and not the sixth: it fits the new total.
    expired = "select expired from event_ledger where last_event = 'expired'"
    assert database.psql(expired) == ["1"] * 5


def test_a_change_that_needs_no_tickets_expires_no_more_than_any_batch(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 2)
    with start(database, sweeps=False).client() as client:
        event = client.create_event(tickets=6)
        client.hold(event, quantity=6)
        database.psql("update ticket_allocations set expires_at = statement_timestamp()")
        response = client.update_event(event, name="renamed", totalTickets=7)
        assert (response.status_code, response.json()["availableTickets"]) == (200, 7)
    assert database.psql("select allocated_tickets from events") == ["4"]


def test_an_event_that_cannot_shrink_expires_no_more_than_any_batch(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 1)
    with start(database, sweeps=False).client() as client:
        event = client.create_event(tickets=6)
        held = client.hold(event, quantity=6)
        for ticket in held[:4]:
            database.expire_hold(ticket)
        response = client.update_event(event, totalTickets=1)
        assert code(response) == (409, "CAPACITY_BELOW_ALLOCATED")
        # Without the holds whose time is up, also those that have not expired yet.
        assert response.json()["details"] == {"allocatedTickets": 2}
    assert database.psql("select allocated_tickets from events") == ["5"]


def test_an_event_that_needs_a_locked_ticket_to_shrink_is_busy(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=2)
    client.hold(event, quantity=2)
    database.psql("update ticket_allocations set expires_at = statement_timestamp()")
    with database.connect() as stranger:
        stranger.execute("select from ticket_allocations for update")
        assert client.update_event(event, totalTickets=2, name="renamed").status_code == 200
        assert code(client.update_event(event, totalTickets=1)) == (503, "BUSY")


def test_a_batch_over_many_events_expires_no_more_than_any_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 4)
    events = [Uuid(database.insert_event(tickets=6, name=f"event {n}")) for n in range(3)]
    carry_out(database, [reserve(event, 6) for event in events])
    database.psql("update ticket_allocations set expires_at = statement_timestamp()")
    outcomes = carry_out(database, [reserve(events[0], 3), reserve(events[1]), reserve(events[0])])
    assert outcome_codes(outcomes) == ["granted"] * 3
    # What the changes of an event need, but at least its share of four.
    expired = "select expired from event_ledger where last_event = 'expired' order by event_id"
    assert database.psql(expired) == ["4", "2"]


@pytest.mark.slow
def test_an_event_with_very_many_expired_holds_can_be_changed(
    client: Client, database: Database
) -> None:
    """They are more than one statement could expire in STATEMENT_SECONDS."""
    event = client.create_event(tickets=300_000)
    database.psql(
        "insert into ticket_allocations (event_id, user_fingerprint, expires_at) "
        "select id, 'alice', now() - interval '1 s' from events, generate_series(1, 200000);"
        "update events set allocated_tickets = 200000, version = 2;"
        "insert into event_ledger (event_id, version, recorded_at, total_tickets, "
        "allocated_tickets, purchased_tickets, reserved, last_event) "
        "select id, 2, now(), 300000, 200000, 0, 200000, 'reserved' from events"
    )
    assert client.update_event(event, name="renamed").status_code == 200
    response = client.update_event(event, totalTickets=196_000)
    assert (response.status_code, response.json()["availableTickets"]) == (200, 196_000)


def test_the_sweeper_does_not_pause_while_holds_are_due(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 1)
    with start(database, sweeps=False).client() as client:
        client.hold(client.create_event(tickets=6), quantity=6)
    database.psql("update ticket_allocations set expires_at = statement_timestamp()")
    # Another service sweeps once at its start, and would then pause for an hour.
    start(database, sweeps=False)
    wait_until(lambda: database.psql("select allocated_tickets from events") == ["0"])


def test_a_hold_expires_exactly_at_its_end(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    (ticket,) = client.hold(event)
    # At the payment the clock shows this time or a later one.
    database.psql("update ticket_allocations set expires_at = statement_timestamp()")
    assert code(client.pay(ticket)) == (410, "HOLD_EXPIRED")


def test_a_time_outside_pythons_range_is_shown_as_the_nearest(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=2)
    (ticket,) = client.hold(event)
    database.psql("update ticket_allocations set expires_at = 'infinity'")
    assert client.find_ticket(ticket).json()["expiresAt"] == "9999-12-31T23:59:59.999999Z"
    assert client.pay(ticket).status_code == 200
    database.psql("update events set date = '0044-03-15 BC'")
    assert client.find_event(event)["date"] == "0001-01-01T00:00:00Z"
    assert client.get("/events").json()["meta"]["total"] == 1


def test_the_sweeper_passes_over_locked_events(database: Database, start: Starter) -> None:
    """Waiting for one lock after another would take longer than this test waits."""
    with start(database, sweeps=False).client() as client:
        events = [client.create_event(name=f"event {number}") for number in range(20)]
        for event in events:
            database.expire_hold(client.hold(event)[0])
    status = f"select status from ticket_allocations where event_id = '{events[-1]}'"
    with database.connect() as stranger:
        stranger.execute("select from events where id <> %s for update", [events[-1]])
        start(database)
        wait_until(lambda: database.psql(status) == ["expired"])
    # What was locked is swept as soon as it is not.
    wait_until(
        lambda: database.psql("select distinct status from ticket_allocations") == ["expired"]
    )
