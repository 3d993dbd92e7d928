"""Shared reads: concurrent reads share a query, which starts after they have arrived."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from service.database.queries import Queries
from service.rows import Event, SaleStatus, Uuid
from service.web.shared_reads import EncodedEvent, share_events
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService
from tests.support.streams import watch_event
from tests.support.waiting import WAIT_SECONDS

FIRST, SECOND = (Uuid(f"018f0000-0000-7000-8000-00000000000{n}") for n in (1, 2))
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class FakeQueries:
    """Queries whose results the test provides, as a version for all events."""

    def __init__(self) -> None:
        self.queried: list[Sequence[Uuid]] = []
        self._results: list[asyncio.Future[int]] = []
        self._new_query = asyncio.Condition()

    async def find_events(self, event_ids: Sequence[Uuid], _: float) -> list[Event]:
        """Wait for the result that the test provides."""
        self.queried.append(sorted(event_ids))
        self._results.append(asyncio.get_running_loop().create_future())
        async with self._new_query:
            self._new_query.notify_all()
        version = await self._results[-1]
        terms: tuple[None, None, None, None, None, int, int, SaleStatus]
        terms = (None, None, None, None, None, 1, 0, "open")
        return [Event(id_, "Gig", NOW, 10, 0, NOW, NOW, 0, version, *terms) for id_ in event_ids]

    async def wait_for_queries(self, count: int) -> None:
        """Wait until at least ``count`` queries were sent."""
        async with self._new_query:
            await self._new_query.wait_for(lambda: len(self.queried) >= count)

    def finish(self, version: int) -> None:
        """Let the last query return events of this version."""
        self._results[-1].set_result(version)

    def fail(self, error: Exception) -> None:
        """Let the last query raise an error."""
        self._results[-1].set_exception(error)


def version(event: EncodedEvent | None) -> str:
    assert event is not None
    return event.etag.strip('"').partition("-")[0]


def test_a_request_during_a_query_waits_for_the_next_query() -> None:
    async def run() -> None:
        queries = FakeQueries()
        reads = share_events(cast(Queries, queries))
        first = asyncio.create_task(reads.find(FIRST))
        await queries.wait_for_queries(1)
        # These requests must see what is committed and acknowledged now.
        later = [asyncio.create_task(reads.find(id_)) for id_ in (FIRST, FIRST, SECOND, FIRST)]
        queries.finish(1)
        await queries.wait_for_queries(2)
        queries.finish(2)
        assert version(await first) == "1"
        assert [version(await read) for read in later] == ["2"] * 4
        assert queries.queried == [[FIRST], [FIRST, SECOND]]

    asyncio.run(asyncio.wait_for(run(), WAIT_SECONDS))


def test_a_failed_query_fails_only_the_requests_that_shared_it() -> None:
    async def run() -> None:
        queries = FakeQueries()
        reads = share_events(cast(Queries, queries))
        first = asyncio.create_task(reads.find(FIRST))
        await queries.wait_for_queries(1)
        later = asyncio.create_task(reads.find(FIRST))
        queries.fail(TimeoutError())
        await queries.wait_for_queries(2)
        queries.finish(2)
        with pytest.raises(TimeoutError):
            await first
        assert version(await later) == "2"

    asyncio.run(asyncio.wait_for(run(), WAIT_SECONDS))


def test_a_cancelled_request_does_not_cancel_the_shared_query() -> None:
    async def run() -> None:
        queries = FakeQueries()
        reads = share_events(cast(Queries, queries))
        tasks = [asyncio.create_task(reads.find(FIRST)) for _ in range(3)]
        await queries.wait_for_queries(1)
        tasks[0].cancel()
        queries.finish(1)
        assert [version(await task) for task in tasks[1:]] == ["1", "1"]

    asyncio.run(asyncio.wait_for(run(), WAIT_SECONDS))


def test_concurrent_reads_of_one_event_share_queries(
    client: Client, database: Database, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = client.create_event()
    queries = 0
    find_events = Queries.find_events

    async def counted(self: Queries, event_ids: Sequence[Uuid], seconds: float) -> Any:
        nonlocal queries
        queries += 1
        return await find_events(self, event_ids, seconds)

    monkeypatch.setattr(Queries, "find_events", counted)
    with ThreadPoolExecutor(40) as pool:
        with database.connect() as rival:
            rival.execute("lock table events in access exclusive mode")
            reads = [pool.submit(client.get, f"/events/{event}") for _ in range(40)]
            database.wait_until_blocked()
        assert {read.result().status_code for read in reads} == {200}
    assert queries < 40
    assert client.find_event(event)["version"] == 1


def test_audits_delay_neither_lists_nor_streams_and_share_queries(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = client.create_event()
    client.hold(event)
    queries = 0
    check_events = Queries.check_events

    async def counted(self: Queries, event_ids: Sequence[Uuid], failed_only: bool) -> Any:
        nonlocal queries
        queries += 1
        return await check_events(self, event_ids, failed_only)

    monkeypatch.setattr(Queries, "check_events", counted)
    with ThreadPoolExecutor(30) as pool:
        with database.connect() as rival:
            # Only an audit reads this table.
            rival.execute("lock table event_private in access exclusive mode")
            audits = [pool.submit(client.check_event, event) for _ in range(30)]
            database.wait_until_blocked()
            assert client.list_user_tickets().status_code == 200
            assert client.list_event_tickets(event).status_code == 200
            with watch_event(client, event) as stream:
                assert stream.next_message()["id"] == event
        assert {audit.result().status_code for audit in audits} == {200}
    assert queries < 30


def test_a_read_shows_every_change_acknowledged_before_it(client: Client) -> None:
    event = client.create_event(tickets=1000)
    with ThreadPoolExecutor(8) as pool:

        def reserve_and_read(_: int) -> bool:
            ticket = client.reserve(event).json()[0]
            return bool(client.find_event(event)["updatedAt"] >= ticket["createdAt"])

        assert all(pool.map(reserve_and_read, range(200)))
    assert code(client.get(f"/events/{FIRST}")) == (404, "NOT_FOUND")
