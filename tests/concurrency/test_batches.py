"""Batches: one transaction with many requests, in the order in which they arrived."""

import asyncio
import os
import signal
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from service import limits, metrics
from service.database.pipeline import Pipeline
from service.limits import DEADLINE_SECONDS, WRITE_CONNECTIONS
from service.refusals import BUSY, Refusal
from service.rows import Uuid
from service.write_path.batches import QueuedChange, take_batch
from service.write_path.changes import Cancel, Expire, Pay, Refund, Update
from service.write_path.outcomes import Outcome, ReservationRefusal
from service.write_path.path import WritePath
from service.write_path.transaction import BatchResult, Transactions
from tests.support.batches import (
    STATEMENTS,
    carry_out,
    outcome_codes,
    reserve,
    run_on_write_path,
)
from tests.support.client import Client, code
from tests.support.database import Database, skip_if_pooled
from tests.support.services import RunningService, Starter
from tests.support.waiting import at_once, wait_until


@pytest.fixture
def event(database: Database) -> Uuid:
    """An event of three tickets."""
    return Uuid(database.insert_event(tickets=3))


def test_a_request_that_is_too_large_takes_nothing_from_the_next_one(
    database: Database, event: Uuid
) -> None:
    outcomes = carry_out(database, [reserve(event, n) for n in (5, 1, 3, 2, 1)])
    assert outcome_codes(outcomes) == [
        "not_enough_tickets",
        "granted",
        "not_enough_tickets",
        "granted",
        "tickets_sold_out",
    ]
    assert [
        outcome.detail.available_tickets
        for outcome in outcomes
        if isinstance(outcome.detail, ReservationRefusal)
    ] == [3, 2, 0]
    assert [len(outcome.tickets) for outcome in outcomes] == [0, 1, 0, 2, 0]


def test_each_event_serves_its_requests_in_order(database: Database, event: Uuid) -> None:
    other = Uuid(database.insert_event(tickets=1, name="Other"))
    unknown = Uuid("018f0000-0000-7000-8000-000000000001")
    batch = [
        reserve(event, 2),
        reserve(other),
        reserve(unknown),
        reserve(other),
        reserve(event, 2),
        reserve(event),
    ]
    assert outcome_codes(carry_out(database, batch)) == [
        "granted",
        "granted",
        "not_found",
        "tickets_sold_out",
        "not_enough_tickets",
        "granted",
    ]


def test_a_key_sent_twice_in_a_batch_reserves_once(database: Database, event: Uuid) -> None:
    batch = [reserve(event, 2, key="k"), reserve(event, 2, key="k"), reserve(event, user="bob")]
    outcomes = carry_out(database, batch)
    assert outcome_codes(outcomes) == ["granted", "replayed", "granted"]
    assert outcomes[0].tickets == outcomes[1].tickets
    assert len(outcomes[0].tickets) == 2
    again = carry_out(database, [reserve(event, 2, key="k"), reserve(event, 1, key="k")])
    assert outcome_codes(again) == ["replayed", "idempotency_key_reused"]
    assert again[0].tickets == outcomes[0].tickets


def test_a_key_sent_twice_in_a_batch_takes_its_tickets_once(
    database: Database, event: Uuid
) -> None:
    batch = [reserve(event, key="k"), reserve(event, key="k"), reserve(event, 2, user="bob")]
    assert outcome_codes(carry_out(database, batch)) == ["granted", "replayed", "granted"]


def test_a_refused_key_is_refused_again_in_the_same_batch(database: Database, event: Uuid) -> None:
    batch = [reserve(event, 4, key="k"), reserve(event, 4, key="k"), reserve(event, 3)]
    assert outcome_codes(carry_out(database, batch)) == [
        "not_enough_tickets",
        "not_enough_tickets",
        "granted",
    ]


def test_a_batch_cancels_before_it_pays_and_reserves(database: Database, event: Uuid) -> None:
    (held,) = carry_out(database, [reserve(event)])
    ticket = held.tickets[0].id
    outcomes = carry_out(
        database,
        [
            Pay(ticket_id=ticket, user_fingerprint="alice"),
            reserve(event, 3),
            Refund(ticket_id=ticket),
            Cancel(ticket_id=ticket, user_fingerprint="mallory"),
            Cancel(ticket_id=ticket, user_fingerprint="alice"),
            Expire(event),
        ],
    )
    # Cancellations come first, so this one succeeds and all three tickets can be reserved.
    assert outcome_codes(outcomes) == [
        "already_cancelled",
        "granted",
        "not_purchased",
        "wrong_fingerprint",
        "granted",
        "granted",
    ]
    assert database.psql(
        "select version, reserved, purchased, cancelled, last_event from event_ledger "
        "order by version desc limit 2"
    ) == ["4|3|0|0|reserved", "3|0|0|1|user_cancelled"]


def test_only_the_owners_first_request_changes_a_ticket(database: Database, event: Uuid) -> None:
    (held,) = carry_out(database, [reserve(event)])
    ticket = held.tickets[0].id
    payments = [
        Pay(ticket_id=ticket, user_fingerprint="mallory"),
        Pay(ticket_id=ticket, user_fingerprint="alice"),
        Pay(ticket_id=ticket, user_fingerprint="alice"),
    ]
    assert outcome_codes(carry_out(database, payments)) == [
        "wrong_fingerprint",
        "granted",
        "already_purchased",
    ]
    refunds = [Refund(ticket_id=ticket), Refund(ticket_id=ticket)]
    assert outcome_codes(carry_out(database, refunds)) == ["granted", "already_refunded"]


@pytest.mark.parametrize(("kind", "status"), [(Pay, "purchased"), (Cancel, "cancelled")])
def test_only_the_owners_first_request_changes_a_reservation(
    database: Database, event: Uuid, kind: type[Pay | Cancel], status: str
) -> None:
    (held,) = carry_out(database, [reserve(event, 2)])
    reservation = held.tickets[0].reservation_id
    batch = [
        kind(user_fingerprint=user, reservation_id=reservation)
        for user in ("mallory", "alice", "alice")
    ]
    outcomes = carry_out(database, batch)
    assert outcome_codes(outcomes) == ["wrong_fingerprint", "granted", f"already_{status}"]
    assert [len(outcome.tickets) for outcome in outcomes] == [0, 2, 0]
    assert outcomes[2].detail == held.tickets[0].id


def test_the_first_payment_in_a_batch_gets_the_ticket(database: Database, event: Uuid) -> None:
    (held,) = carry_out(database, [reserve(event, 2)])
    first, second = held.tickets
    pay_all = Pay(reservation_id=first.reservation_id, user_fingerprint="alice")
    pay_second = Pay(ticket_id=second.id, user_fingerprint="alice")
    outcomes = carry_out(database, [pay_second, pay_all, pay_second])
    assert outcome_codes(outcomes) == ["granted", "granted", "already_purchased"]
    # The payment of the reservation returns both tickets and has moved one of them.
    assert [len(outcome.tickets) for outcome in outcomes] == [1, 2, 0]
    assert [outcome.tickets_moved for outcome in outcomes[:2]] == [1, 1]
    assert {ticket.status for ticket in outcomes[1].tickets} == {"purchased"}


def test_a_payment_of_a_reservation_whose_tickets_are_all_paid_is_refused(
    database: Database, event: Uuid
) -> None:
    (held,) = carry_out(database, [reserve(event)])
    (ticket,) = held.tickets
    pay_ticket = Pay(ticket_id=ticket.id, user_fingerprint="alice")
    pay_all = Pay(reservation_id=ticket.reservation_id, user_fingerprint="alice")
    outcomes = carry_out(database, [pay_ticket, pay_all])
    assert outcome_codes(outcomes) == ["granted", "already_purchased"]
    assert outcomes[1].detail == ticket.id


@pytest.mark.parametrize("is_whole", [True, False], ids=["a reservation", "a ticket"])
def test_a_payment_expires_the_due_holds_of_its_event(
    database: Database, event: Uuid, is_whole: bool
) -> None:
    expired, held = carry_out(database, [reserve(event, user="bobby"), reserve(event)])
    database.expire_hold(expired.tickets[0].id)
    (ticket,) = held.tickets
    payment = (
        Pay(reservation_id=ticket.reservation_id, user_fingerprint="alice")
        if is_whole
        else Pay(ticket_id=ticket.id, user_fingerprint="alice")
    )
    carry_out(database, [payment])
    rows = "select version, expired, purchased from event_ledger order by version"
    assert database.psql(rows)[-2:] == ["3|1|0", "4|0|1"]
    assert database.psql("select allocated_tickets, version from events") == ["1|4"]


def test_a_batch_writes_one_ledger_row_for_each_event_that_changes(
    database: Database, event: Uuid
) -> None:
    carry_out(database, [reserve(event, user=f"user-{n}") for n in range(3)])
    carry_out(database, [reserve(event, user=f"user-{n}") for n in range(3)])
    carry_out(database, [Expire(event)])
    rows = "select version, reserved, allocated_tickets from event_ledger order by version"
    assert database.psql(rows) == ["1|0|0", "2|3|3"]


def test_an_actor_is_the_same_within_an_event_and_differs_across_events(
    database: Database, event: Uuid
) -> None:
    other = Uuid(database.insert_event(tickets=9, name="Other"))
    for event_id in (event, event, other):
        carry_out(database, [reserve(event_id, user="alice")])
    actors = database.psql(
        "select count(distinct actor) from event_ledger where actor is not null group by event_id "
        "union all select count(distinct actor) from event_ledger where actor is not null"
    )
    assert actors == ["1", "1", "2"]
    assert database.psql("select from event_ledger where actor ~ 'alice'") == []


@pytest.mark.parametrize("kind", [None, Pay, Cancel], ids=["reserve", "pay", "cancel"])
def test_the_last_of_a_batch_is_the_actor(
    database: Database, event: Uuid, kind: type[Pay | Cancel] | None
) -> None:
    users = ["alice", "carol", "bob"]
    reserved = carry_out(database, [reserve(event, user=user) for user in users])
    if kind is not None:
        tickets = [
            (outcome.tickets[0].id, user) for outcome, user in zip(reserved, users, strict=True)
        ]
        carry_out(database, [kind(ticket_id=id_, user_fingerprint=user) for id_, user in tickets])
    assert database.psql(
        "select actor = actor_name(secret, 'bob') from event_ledger"
        " inner join event_private using (event_id) order by version desc limit 1"
    ) == ["t"]


def test_every_ticket_of_a_large_batch_has_its_own_id(database: Database) -> None:
    event = Uuid(database.insert_event(tickets=22))
    outcomes = carry_out(database, [reserve(event, 11), *[reserve(event) for _ in range(11)]])
    assert outcome_codes(outcomes) == ["granted"] * 12


def test_changes_that_wait_for_a_transaction_share_the_next_one(
    service: RunningService,
    client: Client,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        limits, "SHARED_LOCK_SECONDS", limits.LOCK_SECONDS
    )  # no event gets its own lane
    event = client.create_event(tickets=50)
    with ThreadPoolExecutor(31) as pool:
        with database.lock_event(event):
            first = pool.submit(client.reserve, event, 1, "first")
            database.wait_until_blocked()
            others = [pool.submit(client.reserve, event, 1, f"user-{n}") for n in range(30)]
            service.wait_until_accepted(31)
        assert {response.result().status_code for response in [first, *others]} == {201}
    batch_sizes = "select reserved from event_ledger where version > 1 order by version"
    assert database.psql(batch_sizes) == ["1", "30"]


@pytest.mark.parametrize("across_events", ["true", "false"])
def test_a_setting_decides_whether_a_batch_may_span_events(
    database: Database, start: Starter, across_events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        limits, "SHARED_LOCK_SECONDS", limits.LOCK_SECONDS
    )  # no event gets its own lane
    service = start(database, batch_across_events=across_events)
    with service.client() as client:
        events = [client.create_event(name=f"event {n}") for n in range(6)]
        with ThreadPoolExecutor(13) as pool:
            with database.lock_event(events[0]):
                responses = [pool.submit(client.reserve, events[0])]
                database.wait_until_blocked()
                responses += [
                    pool.submit(client.reserve, event) for event in [*events, *events[1:]]
                ]
                service.wait_until_accepted(12 if across_events == "true" else 2)
            assert {response.result().status_code for response in responses} == {201}
    all_differ = "select count(distinct xmin::text) = count(*) from event_ledger where version > 1"
    one_transaction_per_event = database.psql(all_differ) == ["t"]
    assert one_transaction_per_event is (across_events == "false")


def test_a_batch_limits_the_tickets_of_its_reservations() -> None:
    async def take_batches() -> list[int]:
        loop = asyncio.get_running_loop()
        queue = deque(
            QueuedChange(
                Pay(reservation_id=Uuid(str(n)), user_fingerprint="alice", max_tickets=1000),
                loop.create_future(),
                loop.time() + 1,
                loop.time() + 1,
            )
            for n in range(12)
        )
        return [len(take_batch(queue)) for _ in range(3)]

    limit = limits.MAX_BATCH_TICKETS // 1000
    assert asyncio.run(take_batches()) == [limit, limit, 12 - 2 * limit]


def test_an_update_is_a_batch_of_its_own() -> None:
    async def take_batches() -> list[int]:
        now = asyncio.get_running_loop().time()
        event = Uuid("018f0000-0000-7000-8000-000000000001")
        queue = deque(
            QueuedChange(change, asyncio.get_running_loop().create_future(), now + 9, now + 9)
            for change in [
                reserve(event, 2),
                reserve(event, 1, user="bob"),
                Update(event, "{}"),
                Pay(ticket_id=event, user_fingerprint="alice"),
            ]
        )
        sizes = []
        while queue:
            sizes.append(len(take_batch(queue)))
        return sizes

    assert asyncio.run(take_batches()) == [2, 1, 1]


def test_a_batch_locks_its_events_before_anything_else(
    database: Database, event: Uuid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And expires what is due before any change."""
    sent: list[str] = []
    run = Pipeline.run

    async def record(pipeline: Pipeline, connection: Any, statements: Any) -> Any:
        sent.extend(statement.name for statement, _ in statements)
        return await run(pipeline, connection, statements)

    monkeypatch.setattr(Pipeline, "run", record)
    (held,) = carry_out(database, [reserve(event)])
    batch = [reserve(event), Cancel(ticket_id=held.tickets[0].id, user_fingerprint="alice")]
    sent.clear()
    carry_out(database, batch)
    before = ["limit_waits", "lock_events", "expire_tickets"]
    assert sent == [*before, "cancel_tickets", "reserve_tickets"]


@pytest.mark.parametrize("name", ["event_ids", "ticket_ids", "reservation_ids"])
def test_an_event_is_locked_however_a_change_names_it(
    database: Database, event: Uuid, name: str
) -> None:
    (held,) = carry_out(database, [reserve(event)])
    (ticket,) = held.tickets
    ids = {"event_ids": event, "ticket_ids": ticket.id, "reservation_ids": ticket.reservation_id}
    named = {other: [ids[other]] if other == name else [] for other in ids}
    with database.lock_event(event), database.connect() as connection:
        connection.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute(STATEMENTS["lock_events"].query, named)


def test_events_are_locked_in_the_order_of_their_ids(database: Database) -> None:
    events = database.psql(
        "insert into events (name, date, total_tickets) "
        "select 'event ' || n, '2030-01-01', 5 from generate_series(1, 12) as n returning id"
    )
    events.sort()
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(events[0]):
            batch = [reserve(Uuid(event)) for event in reversed(events)]
            outcomes = pool.submit(carry_out, database, batch)
            database.wait_until_blocked(application="")
            # It waits for the first event and has locked none of the others.
            with database.connect() as rival:
                unlocked = rival.execute("select id from events for update skip locked").fetchall()
            assert len(unlocked) == len(events) - 1
        assert set(outcome_codes(outcomes.result())) == {"granted"}


def test_a_stuck_event_is_busy_and_does_not_delay_another_event(
    client: Client, database: Database
) -> None:
    stuck, other = client.create_event(name="stuck"), client.create_event(name="other", tickets=50)
    (ticket,) = client.hold(stuck)
    with database.lock_event(stuck):
        responses = at_once(
            lambda: client.reserve(stuck),
            lambda: client.pay(ticket),
            *[lambda n=n: client.reserve(other, user=f"user-{n}") for n in range(20)],
        )
        assert [code(response) for response in responses[:2]] == [(503, "BUSY")] * 2
        assert responses[0].headers["Retry-After"] == "1"
        assert {response.status_code for response in responses[2:]} == {201}
    # BUSY has changed nothing, and the event can be changed again.
    assert client.find_ticket(ticket).json()["status"] == "reserved"
    assert client.find_event(stuck)["allocatedTickets"] == 1
    assert client.pay(ticket).status_code == 200


def failed_batches(reason: str) -> float:
    """Return how many batches have failed in this process with an SQLSTATE of a class."""
    return (
        metrics.REGISTRY.get_sample_value("holdfast_batches_failed_total", {"reason": reason})
        or 0.0
    )


def test_a_batch_whose_locks_take_too_long_is_refused_as_a_whole(
    database: Database, event: Uuid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves would wait for the same lock again, one after the other."""
    # So statement_timeout comes before lock_timeout, as when the lock is waited for twice: in the
    # queue of those who want it, and as the first of them.
    monkeypatch.setattr(limits, "STATEMENT_SECONDS", limits.LOCK_SECONDS / 2)

    async def submit_changes(path: WritePath) -> list[Outcome | Refusal]:
        return await asyncio.gather(*(path.submit(reserve(event)) for _ in range(8)))

    before = failed_batches("55"), failed_batches("57")
    with database.lock_event(event):
        assert run_on_write_path(database, submit_changes, queue_limit=8) == [BUSY] * 8
    # The batch of the shared lane and that of the event's own lane, both as lock timeouts.
    assert (failed_batches("55"), failed_batches("57")) == (before[0] + 2, before[1])


def test_changes_behind_a_locked_event_wait_for_the_rest_of_the_time(
    database: Database, event: Uuid, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    waits_in_its_own_lane = asyncio.Event()
    run = Transactions.run

    async def run_and_record(transactions: Transactions, *arguments: Any) -> BatchResult:
        waits.append(arguments[-1])
        if len(waits) == 2:
            waits_in_its_own_lane.set()
        return await run(transactions, *arguments)

    monkeypatch.setattr(Transactions, "run", run_and_record)

    async def submit_changes(path: WritePath) -> list[Outcome | Refusal]:
        first = asyncio.create_task(path.submit(reserve(event)))
        await waits_in_its_own_lane.wait()
        return await asyncio.gather(first, *(path.submit(reserve(event)) for _ in range(8)))

    with database.lock_event(event):
        assert run_on_write_path(database, submit_changes, queue_limit=9) == [BUSY] * 9
    assert waits[:2] == [limits.SHARED_LOCK_SECONDS, limits.LOCK_SECONDS]
    (rest,) = waits[2:]
    assert limits.SHARED_LOCK_SECONDS <= rest < limits.LOCK_SECONDS


def test_a_request_that_fails_does_not_fail_the_rest_of_its_batch(
    client: Client, database: Database
) -> None:
    event = client.create_event(tickets=50)
    database.psql(
        "create function refuse_poison() returns trigger language plpgsql as "
        "$$ begin raise exception 'poisoned'; end $$;"
        "create trigger poison before insert on ticket_allocations for each row "
        "when (new.user_fingerprint = 'poison') execute function refuse_poison()"
    )
    with ThreadPoolExecutor(20) as pool:
        with database.lock_event(event):
            responses = [pool.submit(client.reserve, event, 1, f"user-{n}") for n in range(10)]
            responses.append(pool.submit(client.reserve, event, 1, "poison"))
            responses += [pool.submit(client.reserve, event, 1, f"user-{n}") for n in range(10, 19)]
            database.wait_until_blocked()
        *before, poisoned = [pending.result() for pending in responses[:11]]
        after = [pending.result() for pending in responses[11:]]
    assert code(poisoned) == (500, "INTERNAL_SERVER_ERROR")
    assert "poison" not in poisoned.text
    assert {response.status_code for response in before + after} == {201}
    assert client.find_event(event)["allocatedTickets"] == 19


def test_a_change_beyond_the_queue_limit_is_busy(database: Database, start: Starter) -> None:
    service = start(database, queue_limit=3)
    with service.client() as client, ThreadPoolExecutor(4) as pool:
        event = client.create_event(tickets=10)
        with database.lock_event(event):
            queued = [pool.submit(client.reserve, event) for _ in range(3)]
            service.wait_until_accepted(3)
            excess = pool.submit(client.reserve, event)
            # Its refusal is delayed, but not the changes in the queue.
            wait_until(lambda: service.state.write_path.delayed_refusals == 1)
        assert {response.result().status_code for response in queued} == {201}
        assert code(excess.result()) == (503, "BUSY")
        assert client.reserve(event).status_code == 201


def test_requests_are_served_in_order_across_batches(database: Database) -> None:
    event = Uuid(database.insert_event(tickets=700))

    async def submit_changes(path: WritePath) -> list[Outcome | Refusal]:
        return await asyncio.gather(*(path.submit(reserve(event)) for _ in range(1200)))

    results = run_on_write_path(database, submit_changes, queue_limit=2000)
    outcomes = [result for result in results if isinstance(result, Outcome)]
    assert outcome_codes(outcomes) == ["granted"] * 700 + ["tickets_sold_out"] * 500
    assert len(database.psql("select distinct updated_at from ticket_allocations")) > 1


def test_refusals_of_a_full_queue_are_delayed_up_to_a_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_DELAYED_REFUSALS", 1)
    monkeypatch.setattr(limits, "BUSY_DELAY_SECONDS", 3600.0)

    async def submit_changes(path: WritePath) -> bool:
        event = Uuid("018f0000-0000-7000-8000-000000000001")
        delayed = asyncio.create_task(path.submit(reserve(event)))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(path.submit(reserve(event)), 5) is BUSY
        delayed.cancel()
        await asyncio.wait([delayed])
        return delayed.cancelled()

    assert run_on_write_path(database, submit_changes, queue_limit=0)


def test_a_connection_that_breaks_during_a_batch_is_outcome_unknown(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough that the batch still waits for its lock when its connection breaks.
    monkeypatch.setattr(limits, "SHARED_LOCK_SECONDS", limits.LOCK_SECONDS)
    event = client.create_event(tickets=5)
    with ThreadPoolExecutor(1) as pool, database.lock_event(event):
        pending = pool.submit(client.reserve, event)
        database.wait_until_blocked()
        database.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where wait_event_type = 'Lock' and datname = current_database()"
        )
        response = pending.result()
    assert code(response) == (503, "OUTCOME_UNKNOWN")
    assert response.headers["Retry-After"] == "1"
    wait_until(lambda: client.reserve(event).status_code == 201)


@skip_if_pooled("the pooler gives a read another, running server process")
def test_requests_to_a_stopped_server_end_at_the_deadline(
    service: RunningService, client: Client, database: Database
) -> None:
    event, other = client.create_event(tickets=5), client.create_event(name="other")
    client.hold(event)
    backends = database.psql(
        "select pid from pg_stat_activity "
        "where application_name = 'holdfast' and datname = current_database()"
    )
    with ThreadPoolExecutor(3) as pool:
        for pid in backends:
            os.kill(int(pid), signal.SIGSTOP)
        try:
            sent = pool.submit(client.reserve, event)
            service.wait_until_accepted(1)
            queued = pool.submit(client.reserve, event, 1, "bob")
            read = pool.submit(client.get, f"/events/{event}")
            # The queued change is refused while the sent one still waits.
            wait_until(queued.done)
            assert not sent.done()
            responses = [pending.result() for pending in (sent, queued, read)]
            # The lane goes on with another connection, while the first is still stopped.
            wait_until(lambda: client.reserve(other).status_code == 201)
        finally:
            for pid in backends:
                os.kill(int(pid), signal.SIGCONT)
    # The first change was sent to PostgreSQL; the second was queued and never sent.
    assert [code(response) for response in responses] == [
        (503, "OUTCOME_UNKNOWN"),
        (503, "BUSY"),
        (503, "BUSY"),
    ]
    assert max(response.elapsed.total_seconds() for response in responses) < DEADLINE_SECONDS + 1
    wait_until(lambda: client.find_event(event)["allocatedTickets"] == 2)


def test_more_stuck_events_than_connections_do_not_delay_another_event(
    client: Client, database: Database
) -> None:
    stuck = [client.create_event(name=f"stuck {n}") for n in range(WRITE_CONNECTIONS + 2)]
    other = client.create_event(name="other", tickets=50)
    with database.connect() as rival, ThreadPoolExecutor(40) as pool:
        rival.execute("select from events where name like 'stuck%' for update")
        blocked = [pool.submit(client.reserve, event) for event in stuck]
        database.wait_until_blocked(WRITE_CONNECTIONS - 1)
        responses = [pool.submit(client.reserve, other, 1, f"user-{n}") for n in range(20)]
        assert {response.result().status_code for response in responses} == {201}
        assert {code(response.result()) for response in blocked} == {(503, "BUSY")}
        rival.rollback()
    wait_until(lambda: client.reserve(stuck[0]).status_code == 201)
