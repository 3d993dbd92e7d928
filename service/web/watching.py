"""The watchers: who watches which event, and the one reader that tells them all.

A few times a second the reader asks, in one query for all events that somebody watches, which of
them have changed; when nobody watches it asks nothing. What an event has become is encoded
once and handed to each of its watchers. A watcher is handed the newest of it alone: who reads
slowly misses what was between, never the end, and holds up nobody.

What is sent are Server-Sent Events:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import limits
from service.database.connections import NO_ANSWER, loggable
from service.database.queries import Queries
from service.rows import Event, EventLedger, LastEvent, Uuid
from service.web.responses import WatchedEventResponse, encode

log = logging.getLogger(__name__)

OPENING = f"retry: {limits.STREAM_RETRY_MILLISECONDS}\n\n".encode()
STILL_HERE = b":\n\n"
"""A comment, which keeps a quiet connection open."""


class News(NamedTuple):
    """What an event has become, ready to be sent."""

    version: int
    frame: bytes
    """A message of Server-Sent Events, the same for all who watch."""

    @classmethod
    def of(cls, event: Event, last: LastEvent | EventLedger) -> "News":
        """Return the news of an event and what happened to it last."""
        data = encode(WatchedEventResponse.of_change(event, last))
        return cls(event.version, b"id: %d\ndata: %s\n\n" % (event.version, data))


@dataclass(slots=True, eq=False)
class Watcher:
    """One who watches an event."""

    version: int = limits.MAX_BIGINT
    """What it was told last; nothing older is told again. Until it is known what it is told
    first, it is told nothing."""
    told_at: float = 0.0
    """When it was told anything, in the event loop's time."""
    _frame: bytes = b""
    _waiting: asyncio.Future[None] | None = None

    def tell(self, frame: bytes, now: float) -> None:
        """Hand over what is to be sent, in the place of anything that lies there."""
        self._frame, self.told_at = frame, now
        self.wake()

    def wake(self) -> None:
        """Let it look whether there is anything to send, or whether all is over."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self) -> bytes:
        """Wait until there is something to send, and return it; nothing: all is over."""
        if not self._frame:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        frame, self._frame = self._frame, b""
        return frame


@dataclass(slots=True, eq=False)
class Watched:
    """An event that somebody watches."""

    watchers: set[Watcher] = field(default_factory=set)
    news: News | None = None
    """What it has become, as far as we have seen."""


class Watchers:
    """All watchers of one process."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._watched: dict[Uuid, Watched] = {}
        self.count = 0
        """How many watch, all events together."""
        self.polls = 0
        """How often the database was asked."""
        self.closed = False

    @contextmanager
    def watching(self, event_id: Uuid) -> Iterator[Watcher]:
        """Let one more watch an event for as long as the block runs."""
        watched = self._watched.setdefault(event_id, Watched())
        watcher = Watcher(told_at=asyncio.get_running_loop().time())
        watched.watchers.add(watcher)
        self.count += 1
        try:
            yield watcher
        finally:
            self.count -= 1
            watched.watchers.remove(watcher)
            if not watched.watchers:
                del self._watched[event_id]

    def close(self) -> None:
        """Wake everybody: there will be no more news."""
        self.closed = True
        for watched in self._watched.values():
            for watcher in watched.watchers:
                watcher.wake()

    async def run(self) -> None:
        """Look for news for ever; cancel it to end it."""
        while True:
            await asyncio.sleep(limits.STREAM_LOOK_SECONDS)
            try:
                await self._look()
            except psycopg.OperationalError as error:
                log.warning("the watchers' reader will look again: %s", loggable(error))
            except NO_ANSWER as error:
                log.warning("the watchers' reader will look again: %s", type(error).__name__)
            except Exception:
                log.exception("the watchers' reader will look again")

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._watched:
            return
        self.polls += 1
        known = {id_: one.news.version if one.news else 0 for id_, one in self._watched.items()}
        for event, last in await self._queries.list_news(known):
            # Nobody may watch it any more by now.
            if watched := self._watched.get(event.id):
                watched.news = News.of(event, last)
        for watched in self._watched.values():
            _tell_all(watched, now)


def _tell_all(watched: Watched, now: float) -> None:
    """Tell whoever does not know it yet and was not told anything just before."""
    left, gap = len(watched.watchers), limits.STREAM_GAP_SECONDS
    if left > limits.STREAM_CROWD:
        gap = limits.STREAM_CROWD_GAP_SECONDS
        # A crowd is told part by part, so that nobody who buys waits for all who watch.
        left = math.ceil(left * limits.STREAM_LOOK_SECONDS / gap)
    for watcher in watched.watchers:
        if now - watcher.told_at < gap:
            continue
        if watched.news and watcher.version < watched.news.version:
            if left:
                left -= 1
                watcher.version = watched.news.version
                watcher.tell(watched.news.frame, now)
        elif now - watcher.told_at >= limits.STREAM_QUIET_SECONDS:
            watcher.tell(STILL_HERE, now)


class EventStream(Response):
    """What one watcher is sent: first what it has missed, then what comes, until it goes."""

    media_type = "text/event-stream"

    def __init__(
        self,
        watchers: Watchers,
        watcher: Watcher,
        missed: Sequence[News],
        watching: ExitStack,
    ) -> None:
        # No cache may keep it, and no proxy gather it (X-Accel-Buffering is nginx's word for it).
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers, media_type=self.media_type)
        del self.headers["content-length"]
        self._watchers = watchers
        self._watcher = watcher
        self._missed = missed
        self._watching = watching

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send until the client goes, or until the service ends."""
        with self._watching:
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await _send_part(send, OPENING + b"".join(news.frame for news in self._missed))
        while not self._watchers.closed:
            if frame := await self._watcher.next():
                await _send_part(send, frame)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _left(receive: Receive) -> None:
    """Wait until the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
