"""Deadlines and lanes: what is sent when, in which lane, and what a client hears meanwhile.

The transactions are the test's own, so that a batch fails or waits when the test wants it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from service import limits
from service.database.queries import Queries
from service.refusals import BUSY, Refusal
from service.rows import Event, TicketAllocation, Uuid
from service.write_path.batches import QueuedChange, drop_overdue, take_batch
from service.write_path.changes import Cancel, Change, Expire, Pay, Update
from service.write_path.lanes import EventLanes, Lane
from service.write_path.outcomes import Outcome
from service.write_path.path import WritePath
from service.write_path.transaction import BatchResult, Transactions, _collect_outcomes
from tests.support.batches import reserve
from tests.support.client import Client, code

EVENT = Uuid("018f0000-0000-7000-8000-000000000001")
OTHER = Uuid("018f0000-0000-7000-8000-000000000002")
TICKET = Uuid("018f0000-0000-7000-8000-000000000003")
UNKNOWN = Uuid("018f0000-0000-7000-8000-000000000004")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
HELD = TicketAllocation(TICKET, EVENT, "alice", "reserved", NOW, NOW, NOW, TICKET, 1)

# Carries out a batch: takes its number, from 1; may raise the error of a transaction.
RunBatch = Callable[[int], Awaitable[None]]


class FakeTransactions:
    """Transactions that the test carries out.

    Attributes:
        batches: the changes of each batch that was sent.
    """

    def __init__(self, run: RunBatch) -> None:
        self._run = run
        self.batches: list[list[Change]] = []

    async def run(self, _: object, changes: Sequence[Change], __: float) -> BatchResult:
        """Carry out a batch; all its changes are granted."""
        self.batches.append(list(changes))
        await self._run(len(self.batches))
        return BatchResult([Outcome("granted") for _ in changes], set())


class FakePool:
    """A pool whose connections do nothing."""

    def connection(self) -> "nullcontext[None]":
        """Return a connection."""
        return nullcontext()


class FakeQueries:
    """Queries of a database that has one ticket, and in which the first event is locked."""

    async def find_tickets(self, ids: Sequence[Uuid], _: float) -> list[TicketAllocation]:
        """Return the ticket, if it is asked for."""
        return [HELD] if TICKET in ids else []

    async def find_unlocked_events(self, events: list[Uuid]) -> set[Uuid]:
        """Return all events but the first."""
        return set(events) - {EVENT}


POOL, QUERIES = cast(AsyncConnectionPool, FakePool()), cast(Queries, FakeQueries())


class Tasks:
    """Starts the tasks of a lane, and counts them."""

    def __init__(self) -> None:
        self.started: list[asyncio.Task[None]] = []

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a task."""
        self.started.append(asyncio.get_running_loop().create_task(coroutine))


def queue_change(change: Change, send_within: float = 9, respond_within: float = 9) -> QueuedChange:
    """Return a change with its deadlines, in seconds from now."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    future = loop.create_future()
    return QueuedChange(change, future, now + send_within, now + respond_within)


def create_lane(transactions: FakeTransactions, tasks: Tasks) -> Lane:
    """Return a lane."""
    return Lane(
        POOL,
        cast(Transactions, transactions),
        QUERIES,
        slot=nullcontext(),
        spawn=tasks.spawn,
        on_offerable=lambda _: None,
        on_idle=lambda: None,
    )


def create_path(run: RunBatch) -> tuple[WritePath, FakeTransactions]:
    """Return a write path and its transactions."""
    fake = FakeTransactions(run)
    path = WritePath(POOL, cast(Transactions, fake), QUERIES, across_events=True, queue_limit=100)
    return path, fake


def run_lane(run: RunBatch, *changes: tuple[Change, float]) -> tuple[list[Any], list[list[Change]]]:
    """Let a lane carry out changes, each with its seconds until it must be sent.

    Returns:
        The results, and the batches that were sent.
    """

    async def add() -> list[Any]:
        lane, queued = create_lane(fake, Tasks()), [queue_change(*change) for change in changes]
        for each in queued:
            lane.add(each)
        return await asyncio.wait_for(asyncio.gather(*(each.result for each in queued)), 9)

    fake = FakeTransactions(run)
    return asyncio.run(add()), fake.batches


def codes(results: Sequence[Outcome | Refusal]) -> list[str]:
    """Return the code of each result."""
    return [result.code for result in results]


FIRST, SECOND = BOTH = reserve(EVENT, user="first"), reserve(EVENT, user="second")


def test_a_batch_leaves_out_a_change_that_is_too_late() -> None:
    async def take() -> tuple[list[Change], object]:
        late, in_time = queue_change(FIRST, send_within=0), queue_change(SECOND)
        batch = [queued.change for queued in take_batch(deque([late, in_time]))]
        return batch, await asyncio.wait_for(late.result, 1)

    assert asyncio.run(take()) == ([SECOND], BUSY)


def test_changes_that_are_too_late_after_a_query_are_busy() -> None:
    async def drop() -> tuple[list[Change], object, bool]:
        late, in_time = queue_change(FIRST, send_within=0), queue_change(SECOND)
        remaining = [queued.change for queued in drop_overdue([late, in_time])]
        return remaining, await asyncio.wait_for(late.result, 1), in_time.result.done()

    assert asyncio.run(drop()) == ([SECOND], BUSY, False)


def test_the_second_half_of_a_failed_batch_is_not_sent_after_its_deadline() -> None:
    async def run(number: int) -> None:
        if number == 1:
            raise psycopg.errors.RaiseException
        await asyncio.sleep(0.2)

    results, batches = run_lane(run, (FIRST, 9), (SECOND, 0.1))
    assert codes(results) == ["granted", "BUSY"]
    assert batches == [[FIRST, SECOND], [FIRST]]


def test_the_second_half_of_a_failed_batch_is_refused_at_its_deadline() -> None:
    """And not when the first half is done."""

    async def add() -> bool:
        first, second = queue_change(FIRST), queue_change(SECOND, send_within=0.1)

        async def run(number: int) -> None:
            if number == 1:
                raise psycopg.errors.RaiseException
            await asyncio.wait([second.result], timeout=5)
            refused_meanwhile.append(second.result.done())

        refused_meanwhile: list[bool] = []
        lane = create_lane(FakeTransactions(run), Tasks())
        lane.add(first)
        lane.add(second)
        await asyncio.gather(first.result, second.result)
        return refused_meanwhile == [True]

    assert asyncio.run(add())


def test_the_first_half_of_a_failed_batch_is_not_sent_after_its_deadline() -> None:
    async def run(number: int) -> None:
        if number == 1:
            await asyncio.sleep(0.2)
            raise psycopg.errors.RaiseException

    results, batches = run_lane(run, (FIRST, 0.1), (SECOND, 9))
    assert codes(results) == ["BUSY", "granted"]
    assert batches == [[FIRST, SECOND], [SECOND]]


def test_a_batch_is_not_tried_again_after_its_deadline() -> None:
    async def run(_: int) -> None:
        await asyncio.sleep(0.2)
        raise psycopg.errors.SerializationFailure

    results, batches = run_lane(run, (FIRST, 0.1))
    assert codes(results) == ["BUSY"]
    assert batches == [[FIRST]]


def test_a_change_that_was_sent_has_until_the_deadline() -> None:
    async def run(_: int) -> None:
        await asyncio.sleep(0.2)

    assert codes(run_lane(run, (FIRST, 0.1))[0]) == ["granted"]


def test_changes_that_are_set_aside_keep_their_order() -> None:
    async def run(_: int) -> None:
        await asyncio.sleep(0)

    pay = Pay(ticket_id=TICKET, user_fingerprint="alice")
    cancels = [Cancel(ticket_id=TICKET, user_fingerprint=user) for user in ("alice", "bob")]
    _, batches = run_lane(run, (pay, 9), *((cancel, 9) for cancel in cancels))
    assert batches == [[pay], cancels]


def test_a_lane_whose_batches_end_in_time_has_one_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEADLINE_SECONDS", 0.1)

    async def run(_: int) -> None:
        await asyncio.sleep(0)

    async def add() -> int:
        tasks = Tasks()
        change = queue_change(FIRST)
        create_lane(FakeTransactions(run), tasks).add(change)
        await change.result
        await asyncio.sleep(0.2)
        return len(tasks.started)

    assert asyncio.run(add()) == 1


def test_a_lane_goes_on_while_a_batch_has_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEADLINE_SECONDS", 0.1)
    response = asyncio.Event()

    async def run(number: int) -> None:
        if number == 1:
            await response.wait()

    async def add() -> tuple[str, bool]:
        lane, first, second = create_lane(FakeTransactions(run), Tasks()), *map(queue_change, BOTH)
        lane.add(first)
        await asyncio.sleep(0)
        lane.add(second)
        result = await asyncio.wait_for(second.result, 3)
        is_waiting = not first.result.done()
        response.set()
        await first.result
        return result.code, is_waiting

    assert asyncio.run(add()) == ("granted", True)


def create_event_lanes(run: RunBatch) -> EventLanes:
    """Return the lanes of the events."""
    transactions = cast(Transactions, FakeTransactions(run))
    return EventLanes(
        POOL,
        transactions,
        QUERIES,
        spawn=Tasks().spawn,
        on_offerable=lambda _: None,
        for_all=False,
    )


def test_a_lane_is_removed_when_it_is_idle() -> None:
    async def run(_: int) -> None:
        await asyncio.sleep(0)

    async def add() -> bool:
        lanes, change = create_event_lanes(run), queue_change(FIRST)
        lanes.get(EVENT).add(change)
        assert EVENT in lanes
        await change.result
        await asyncio.sleep(0.01)
        return EVENT in lanes

    assert not asyncio.run(add())


def test_a_lane_with_changes_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked event keeps its lane for a while, and may be in use again by then."""
    monkeypatch.setattr(limits, "STUCK_LANE_SECONDS", 0.1)
    done = asyncio.Event()

    async def run(number: int) -> None:
        if number == 1:
            raise psycopg.errors.LockNotAvailable
        await done.wait()

    async def add() -> bool:
        lanes, changes = create_event_lanes(run), [queue_change(FIRST), queue_change(SECOND)]
        lane = lanes.get(EVENT)
        lane.add(changes[0])
        await changes[0].result
        lane.add(changes[1])
        await asyncio.sleep(0.2)
        kept = lanes.get(EVENT) is lane
        done.set()
        await changes[1].result
        return kept

    assert asyncio.run(add())


async def grant(_: int) -> None:
    """Carry out any batch."""
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("change", "is_shared"), [(Expire(EVENT), False), (Update(EVENT, "{}"), False), (FIRST, True)]
)
def test_work_that_may_take_long_uses_the_lane_of_its_event(
    change: Change, is_shared: bool
) -> None:
    async def choose() -> bool:
        path, _ = create_path(grant)
        return path._choose_lane(change) is path._shared_lane

    assert asyncio.run(choose()) is is_shared


def test_closing_waits_for_the_transactions_that_are_under_way() -> None:
    async def run(_: int) -> None:
        await asyncio.sleep(0.2)

    async def close() -> bool:
        path, _ = create_path(run)
        change = asyncio.create_task(path.submit(FIRST))
        await asyncio.sleep(0.01)
        await path.close()
        await asyncio.sleep(0)
        return change.done()

    assert asyncio.run(close())


def test_only_the_locked_event_gets_a_lane_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes: list[Uuid] = []
    get = EventLanes.get

    def record(self: EventLanes, event_id: Uuid) -> Lane:
        lanes.append(event_id)
        return get(self, event_id)

    async def run(number: int) -> None:
        if number == 1:
            raise psycopg.errors.LockNotAvailable

    async def submit() -> list[Outcome | Refusal]:
        path, _ = create_path(run)
        return await asyncio.gather(*(path.submit(reserve(event)) for event in (EVENT, OTHER)))

    monkeypatch.setattr(EventLanes, "get", record)
    assert codes(asyncio.run(submit())) == ["granted", "granted"]
    assert lanes == [EVENT]


def test_a_change_of_a_ticket_follows_its_event_into_its_lane() -> None:
    """Else it could overtake an earlier change of the ticket, which has moved there."""
    lock = asyncio.Event()

    async def run(number: int) -> None:
        if number == 1:
            raise psycopg.errors.LockNotAvailable
        await lock.wait()

    async def submit() -> list[int]:
        path, transactions = create_path(run)
        pay = asyncio.create_task(path.submit(Pay(ticket_id=TICKET, user_fingerprint="alice")))
        await asyncio.sleep(0.05)
        cancel = Cancel(ticket_id=TICKET, user_fingerprint="alice")
        later = asyncio.create_task(path.submit(cancel))
        await asyncio.sleep(0.05)
        sent_before = len(transactions.batches)
        lock.set()
        await asyncio.wait_for(asyncio.gather(pay, later), 3)
        return [sent_before, len(transactions.batches)]

    # The payment twice, then both.
    assert asyncio.run(submit()) == [2, 3]


def test_an_unknown_ticket_in_a_failed_batch_is_busy() -> None:
    async def run(number: int) -> None:
        if number == 1:
            raise psycopg.errors.RaiseException

    async def submit() -> list[Outcome | Refusal]:
        path, _ = create_path(run)
        changes = (FIRST, Pay(ticket_id=UNKNOWN, user_fingerprint="alice"))
        return await asyncio.wait_for(asyncio.gather(*map(path.submit, changes)), 3)

    assert codes(asyncio.run(submit())) == ["granted", "BUSY"]


def test_an_update_that_needs_a_locked_ticket_is_tried_once() -> None:
    """Its expiry expires nothing, and would not the next time."""
    event = tuple(Event.__struct_fields__)  # its values do not matter
    rows: dict[str, list[Any]] = {
        "update_event": [("more_to_expire", 1, None)],
        "find_events": [event],
        "expire_tickets": [],
    }
    update = Update(EVENT, "{}")
    (outcome,) = _collect_outcomes([update], {Update: [0]}, rows)
    assert outcome.code == "busy"
    (outcome,) = _collect_outcomes(
        [update], {Update: [0]}, {**rows, "expire_tickets": [(EVENT, 1)]}
    )
    assert outcome.code == "more_to_expire"


@pytest.mark.parametrize("error", [TimeoutError(), psycopg.errors.QueryCanceled()])
def test_a_read_that_takes_too_long_is_busy(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(Queries, "_execute", fail)
    assert code(client.get(f"/events/{EVENT}")) == (503, "BUSY")
