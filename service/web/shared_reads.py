"""Shared reads: concurrent requests for events share one query.

Requests that arrive while a query is running wait for the next one, which reads all of their
events at once. A request never joins a query that is already running, because the query's snapshot
could be older than a change that the client knows to be committed.
"""

import asyncio
import hashlib
from collections import defaultdict
from typing import NamedTuple

from service import limits
from service.database.queries import Queries
from service.rows import Uuid
from service.web.responses import EventResponse, encode


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


class SharedReads:
    """Finds events for all requests of a process."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._waiting: defaultdict[Uuid, list[asyncio.Future[EncodedEvent | None]]]
        self._waiting = defaultdict(list)
        self._running: asyncio.Task[None] | None = None

    async def find_event(self, event_id: Uuid) -> EncodedEvent | None:
        """Return an event, encoded; None if it does not exist.

        Raises:
            What ``Queries.find_events`` raises.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[EncodedEvent | None] = loop.create_future()
        self._waiting[event_id].append(result)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return await result

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, defaultdict(list)
            try:
                rows = await self._queries.find_events(list(batch), limits.SHARED_READ_SECONDS)
            except Exception as error:
                for result in (result for results in batch.values() for result in results):
                    if not result.done():
                        result.set_exception(error)
                continue
            events = {row.id: EncodedEvent.of(EventResponse.of(row)) for row in rows}
            for event_id, results in batch.items():
                for result in results:
                    if not result.done():  # its request may have been canceled
                        result.set_result(events.get(event_id))
        self._running = None
