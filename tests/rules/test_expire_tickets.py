"""Expiry: a hold is available as soon as its time is up, whether or not it has been swept."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from service.database.queries import Queries
from service.rows import Uuid
from tests.support.batches import STATEMENTS, carry_out, outcome_codes, reserve
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
    reservation = client.find_ticket(ticket).json()["reservationId"]
    assert client.find_reservation(reservation).json()["status"] == "expired"
    assert client.get(f"/events/{event}").headers["ETag"] != etag
    # The ticket has not been swept.
    assert database.psql("select status from ticket_allocations") == ["reserved"]


# Whether a statement takes a hold for one that is over, by its rows.
SEES_THE_END: dict[str, Callable[[list[Any]], bool]] = {
    "expire_tickets": lambda rows: len(rows) == 1,
    "list_due_events": lambda rows: len(rows) == 1,
    "find_events": lambda rows: rows[0][4] == 0,
    "find_tickets": lambda rows: rows[0][3] == "expired",
    "pay_tickets": lambda rows: rows[0][1] == "hold_expired",
}


@pytest.mark.parametrize("name", SEES_THE_END)
def test_a_hold_is_over_at_its_end_in_every_statement(
    unbalanced_database: Database, name: str
) -> None:
    database = unbalanced_database
    event = database.insert_event(tickets=1)
    (held,) = carry_out(database, [reserve(Uuid(event))])
    # It expires the holds of its events, and those that it is about in any case.
    tickets = [] if name == "expire_tickets" else [held.tickets[0].id]
    ids = {"ticket_ids": tickets, "reservation_ids": [None] * len(tickets)}
    values = {"event_ids": [event], "quantities": [1], "user_fingerprints": ["alice"], "most": 9}
    # Two statements that are sent together have one clock, here the end of the hold.
    ends = b"update ticket_allocations set expires_at = statement_timestamp();"
    with database.connect() as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(ends + STATEMENTS[name].query, {**values, **ids})
        assert cursor.nextset()
        assert SEES_THE_END[name](cursor.fetchall())


def test_a_hold_that_ends_during_the_wait_is_available(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    client.hold(event)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            reserved = pool.submit(client.reserve, event, 1, "bob")
            database.wait_until_blocked()
            rival.execute("update ticket_allocations set expires_at = clock_timestamp()")
        assert reserved.result().status_code == 201


@pytest.mark.parametrize("name", ["pay_tickets", "cancel_tickets", "extend_reservations"])
def test_a_hold_is_judged_by_the_clock_after_the_wait(
    unbalanced_database: Database, name: str
) -> None:
    """Also if the batch could not expire it, because somebody has locked its ticket in psql."""
    database = unbalanced_database
    (held,) = carry_out(database, [reserve(Uuid(database.insert_event(tickets=1)))])
    values = {"reservation_ids": [held.tickets[0].reservation_id], "ticket_ids": [None]}
    values |= {"user_fingerprints": ["alice"], "hold_seconds": 9, "max_hold_seconds": 9}
    with database.connect() as connection:
        connection.execute("select")  # begins the transaction
        database.psql("update ticket_allocations set expires_at = clock_timestamp()")
        ((_, outcome, *_),) = connection.execute(STATEMENTS[name].query, values).fetchall()
    assert outcome == "hold_expired"


def test_expiry_reads_the_clock_after_the_wait(unbalanced_database: Database) -> None:
    database = unbalanced_database
    event = Uuid(database.insert_event(tickets=1))
    carry_out(database, [reserve(event)])
    values = {"event_ids": [event], "quantities": [1], "ticket_ids": [], "reservation_ids": []}
    with database.connect() as connection:
        connection.execute("select")  # begins the transaction
        database.psql("update ticket_allocations set expires_at = clock_timestamp()")
        query = STATEMENTS["expire_tickets"].query
        assert len(connection.execute(query, {**values, "most": 9}).fetchall()) == 1


def test_the_earliest_holds_expire_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 1)
    event = Uuid(database.insert_event(tickets=3))
    carry_out(database, [reserve(event, 3)])
    database.psql(
        "update ticket_allocations"
        " set expires_at = statement_timestamp() - make_interval(secs => position % 3 + 1)"
    )
    carry_out(database, [reserve(event)])
    expired = "select position from ticket_allocations where status = 'expired'"
    assert database.psql(expired) == ["2"]


def test_every_due_event_is_listed_up_to_a_limit(database: Database) -> None:
    events = [Uuid(database.insert_event(tickets=2, name=f"event {n}")) for n in range(4)]
    # One of them has no hold that is over.
    outcomes = carry_out(database, [reserve(event) for event in events])
    for outcome in outcomes[1:]:
        database.expire_hold(outcome.tickets[0].id)
    with database.connect() as connection:
        query = STATEMENTS["list_due_events"].query
        due = [str(row[0]) for row in connection.execute(query, {"most": 9})]
        two = [str(row[0]) for row in connection.execute(query, {"most": 2})]
    assert (due, two) == (sorted(events[1:]), sorted(events[1:])[:2])


def test_a_batch_expires_what_all_its_requests_need(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.limits.SWEEP_TICKETS", 1)
    event = Uuid(database.insert_event(tickets=4))
    carry_out(database, [reserve(event, 4)])
    database.psql("update ticket_allocations set expires_at = statement_timestamp()")
    assert outcome_codes(carry_out(database, [reserve(event, 2)] * 2)) == ["granted"] * 2


def test_the_sweeper_goes_on_after_an_error(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_due_events = Queries.list_due_events
    failures = iter([ValueError("on purpose")])

    async def fail_once(queries: Queries, most: int) -> list[Uuid]:
        for failure in failures:
            raise failure
        return await list_due_events(queries, most)

    monkeypatch.setattr(Queries, "list_due_events", fail_once)
    with start(database).client() as client:
        database.expire_hold(client.hold(client.create_event())[0])
        wait_until(lambda: database.psql("select status from ticket_allocations") == ["expired"])


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
