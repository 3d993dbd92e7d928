"""Shared reads: who looks at events at the same time shares one query.

While a query is under way, those who come wait for the next one, which then asks for all of
their events. None joins a query that was sent already: it could be older than what the
caller was told just before.
"""

import asyncio
from collections import defaultdict
from typing import NamedTuple

from service import limits
from service.database.queries import Queries
from service.rows import Uuid
from service.web.responses import EventResponse, encode


class EncodedEvent(NamedTuple):
    """An event as it is sent, encoded once for all who asked."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, answer: EventResponse) -> "EncodedEvent":
        """Return an answer, encoded."""
        return cls(encode(answer), answer.etag)


class SharedReads:
    """Finds events for all handlers of a process."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._asked: defaultdict[Uuid, list[asyncio.Future[EncodedEvent | None]]] = defaultdict(list)
        self._running: asyncio.Task[None] | None = None

    async def find_event(self, event_id: Uuid) -> EncodedEvent | None:
        """Return an event as it is shown; None if there is none.

        Raises:
            What ``Queries.find_events`` raises.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[EncodedEvent | None] = loop.create_future()
        self._asked[event_id].append(answer)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, defaultdict(list)
            try:
                events = await self._queries.find_events(list(asked), limits.SHARED_READ_SECONDS)
            except Exception as error:
                for answer in (answer for answers in asked.values() for answer in answers):
                    if not answer.done():
                        answer.set_exception(error)
                continue
            shown = {event.id: EncodedEvent.of(EventResponse.of(event)) for event in events}
            for event_id, answers in asked.items():
                for answer in answers:
                    if not answer.done():  # its caller may have gone
                        answer.set_result(shown.get(event_id))
        self._running = None
