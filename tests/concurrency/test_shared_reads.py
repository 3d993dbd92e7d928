"""Shared reads: who looks together shares a query, and is shown nothing from before they came."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from service.database.queries import Queries
from service.rows import Event, Uuid
from service.web.shared_reads import EncodedEvent, SharedReads
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService

ONE, OTHER = (Uuid(f"018f0000-0000-7000-8000-00000000000{n}") for n in (1, 2))
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Stand:
    """Stands in for the database: each query is answered when the test says so, by a version."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Uuid]] = []
        self._answers: list[asyncio.Future[int]] = []
        self._sent = asyncio.Condition()

    async def find_events(self, event_ids: Sequence[Uuid], _: float) -> list[Event]:
        """Wait for the test's answer."""
        self.asked.append(sorted(event_ids))
        self._answers.append(asyncio.get_running_loop().create_future())
        async with self._sent:
            self._sent.notify_all()
        version = await self._answers[-1]
        return [Event(id_, "Gig", NOW, 10, 0, NOW, NOW, 0, version) for id_ in event_ids]

    async def until_asked(self, times: int) -> None:
        """Wait until so many queries were sent."""
        async with self._sent:
            await self._sent.wait_for(lambda: len(self.asked) >= times)

    def answer(self, version: int) -> None:
        """Answer the last query."""
        self._answers[-1].set_result(version)

    def fail(self, error: Exception) -> None:
        """Have the last query fail."""
        self._answers[-1].set_exception(error)


def version(shown: EncodedEvent | None) -> str:
    assert shown is not None
    return shown.etag.strip('"').partition("-")[0]


def test_a_request_during_a_query_waits_for_the_next_query() -> None:
    async def run() -> None:
        database = Stand()
        reads = SharedReads(cast(Queries, database))
        first = asyncio.create_task(reads.find_event(ONE))
        await database.until_asked(1)
        # Something is committed and acknowledged now: these must see it, and do.
        late = [asyncio.create_task(reads.find_event(id_)) for id_ in (ONE, ONE, OTHER, ONE)]
        database.answer(1)
        await database.until_asked(2)
        database.answer(2)
        assert version(await first) == "1"
        assert [version(await one) for one in late] == ["2"] * 4
        assert database.asked == [[ONE], [ONE, OTHER]]

    asyncio.run(run())


def test_a_failed_query_fails_only_the_requests_that_shared_it() -> None:
    async def run() -> None:
        database = Stand()
        reads = SharedReads(cast(Queries, database))
        first = asyncio.create_task(reads.find_event(ONE))
        await database.until_asked(1)
        late = asyncio.create_task(reads.find_event(ONE))
        database.fail(TimeoutError())
        await database.until_asked(2)
        database.answer(2)
        with pytest.raises(TimeoutError):
            await first
        assert version(await late) == "2"

    asyncio.run(run())


def test_a_cancelled_request_does_not_cancel_the_shared_query() -> None:
    async def run() -> None:
        database = Stand()
        reads = SharedReads(cast(Queries, database))
        tasks = [asyncio.create_task(reads.find_event(ONE)) for _ in range(3)]
        await database.until_asked(1)
        tasks[0].cancel()
        database.answer(1)
        assert [version(await one) for one in tasks[1:]] == ["1", "1"]

    asyncio.run(run())


def test_concurrent_reads_of_one_event_share_queries(
    client: Client, database: Database, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = client.create_event()
    asked: list[int] = []
    find_events = Queries.find_events

    async def counted(self: Queries, event_ids: Sequence[Uuid], seconds: float) -> Any:
        asked.append(len(event_ids))
        return await find_events(self, event_ids, seconds)

    monkeypatch.setattr(Queries, "find_events", counted)
    with ThreadPoolExecutor(40) as pool:
        with database.connect() as rival:
            rival.execute("lock table events in access exclusive mode")
            looks = [pool.submit(client.get, f"/events/{event}") for _ in range(40)]
            database.wait_until_blocked()
        assert {look.result().status_code for look in looks} == {200}
    assert len(asked) < 40
    assert client.find_event(event)["version"] == 1


def test_a_read_shows_every_change_acknowledged_before_it(client: Client) -> None:
    event = client.create_event(tickets=1000)
    with ThreadPoolExecutor(8) as pool:

        def buy_and_look(_: int) -> bool:
            ticket = client.reserve(event).json()[0]
            return bool(client.find_event(event)["updatedAt"] >= ticket["createdAt"])

        assert all(pool.map(buy_and_look, range(200)))
    assert code(client.get(f"/events/{ONE}")) == (404, "NOT_FOUND")
