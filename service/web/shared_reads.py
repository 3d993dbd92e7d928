"""Shared reads: concurrent requests about events, or waiting entries, share one query.

Requests that arrive while a query is running wait for the next one, which reads all of their
events at once. A request never joins a query that is already running, because the query's snapshot
could be older than a change that the client knows to be committed.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from service import limits
from service.database.queries import Queries
from service.rows import Uuid, WaitingEntry
from service.web.responses import AuditResponse, EventResponse, encode

T = TypeVar("T")


class EncodedEvent(NamedTuple):
    """An event in JSON, encoded once for all requests that share a query."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, event: EventResponse) -> "EncodedEvent":
        """Return an event, encoded."""
        return cls(encode(event), event.etag)

    @classmethod
    def of_the_past(cls, event: EventResponse) -> "EncodedEvent":
        """Return an event at a past moment, encoded.

        Its version, counts and updatedAt are those of that moment. Its name, date and terms of sale
        are the current ones and can still change, so the ETag is a hash of the whole body.
        """
        body = encode(event)
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


class SharedReads(Generic[T]):
    """Reads something by ids, for all requests of a process.

    Args:
        read: reads it for several ids at once; leaves out those that do not exist.
        pause: the seconds after a query in which no other one begins.
    """

    def __init__(
        self, read: Callable[[list[Uuid]], Awaitable[Mapping[Uuid, T]]], pause: float = 0
    ) -> None:
        self._read = read
        self._pause = pause
        self._waiting: defaultdict[Uuid, list[asyncio.Future[T | None]]] = defaultdict(list)
        self._running: asyncio.Task[None] | None = None

    async def find(self, id_: Uuid) -> T | None:
        """Return what is read of an id; None if it does not exist.

        Raises:
            What ``read`` raises.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T | None] = loop.create_future()
        self._waiting[id_].append(result)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return await result

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, defaultdict(list)
            try:
                found = await self._read(list(batch))
            except Exception as error:
                for result in (result for results in batch.values() for result in results):
                    if not result.done():
                        result.set_exception(error)
                continue
            for id_, results in batch.items():
                for result in results:
                    if not result.done():  # its request may have been canceled
                        result.set_result(found.get(id_))
            if self._pause:
                await asyncio.sleep(self._pause)
        self._running = None


def share_events(queries: Queries) -> SharedReads[EncodedEvent]:
    """Return shared reads of events as they are."""

    async def read(event_ids: list[Uuid]) -> dict[Uuid, EncodedEvent]:
        rows = await queries.find_events(event_ids, limits.SHARED_READ_SECONDS)
        return {row.id: EncodedEvent.of(EventResponse.of(row)) for row in rows}

    return SharedReads(read)


def share_audits(queries: Queries) -> SharedReads[AuditResponse]:
    """Return shared audits: however many ask, a process audits once at a time."""

    async def read(event_ids: list[Uuid]) -> dict[Uuid, AuditResponse]:
        checks = await queries.check_events(event_ids, failed_only=False)
        return {
            event_id: AuditResponse.of(list(of_event))
            for event_id, of_event in groupby(checks, key=attrgetter("event_id"))
        }

    return SharedReads(read)


def share_entries(queries: Queries) -> SharedReads[WaitingEntry]:
    """Return shared reads of waiting entries.

    A query goes through the whole line of an event, so there are few of them in a second.
    """

    async def read(entry_ids: list[Uuid]) -> dict[Uuid, WaitingEntry]:
        rows = await queries.find_waiting_entries(entry_ids, limits.SHARED_READ_SECONDS)
        return {row.id: row for row in rows}

    return SharedReads(read, pause=limits.LINE_READ_PAUSE_SECONDS)
