"""Watching: streams of an event's changes, fed by one poller per process.

A few times a second the poller asks, in one query for all watched events, which of them have
changed. It sends no query when nobody watches. A changed event is encoded once for all of its
watchers. Each watcher holds only the newest message that it has not sent yet: a slow client skips
versions but always gets the last one, and does not delay others.

The format is Server-Sent Events:
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
from service.database.connections import UNAVAILABLE, loggable
from service.database.queries import Queries
from service.rows import Event, EventLedger, LastEvent, Uuid
from service.web.responses import WatchedEventResponse, encode

log = logging.getLogger(__name__)

# RETRY and KEEP_ALIVE are not followed by a blank line: a blank line ends a message, and some
# clients would deliver a message without data. A client reads them as part of the next message.

# How long a browser waits before it reconnects.
RETRY = f"retry: {limits.STREAM_RETRY_MILLISECONDS}\n".encode()
# A comment, so that proxies do not close a quiet connection.
KEEP_ALIVE = b":\n"


class Message(NamedTuple):
    """A version of an event, encoded once for all of its watchers."""

    version: int
    encoded: bytes

    @classmethod
    def of(cls, event: Event, last_change: LastEvent | EventLedger) -> "Message":
        """Return the message with an event and the last change to it."""
        data = encode(WatchedEventResponse.of_change(event, last_change))
        return cls(event.version, b"id: %d\ndata: %s\n\n" % (event.version, data))


@dataclass(slots=True, eq=False)
class Watcher:
    """A client that watches an event."""

    # The newest version that the client has or is about to be sent; only newer ones are put. Until
    # the stream's first messages are chosen, it is the highest possible number: none is put.
    version: int = limits.MAX_BIGINT
    # When a message was put last, in the event loop's time.
    put_at: float = 0.0
    _message: bytes = b""
    _waiting: asyncio.Future[None] | None = None

    def put(self, message: bytes, now: float) -> None:
        """Set the next message to send, in place of one that has not been sent yet."""
        self._message, self.put_at = message, now
        self.wake()

    @property
    def has_unsent_message(self) -> bool:
        """Whether a message waits to be sent; a keep-alive must not replace it."""
        return bool(self._message)

    def wake(self) -> None:
        """Let ``get`` return."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def get(self) -> bytes:
        """Wait for the next message and return it; b'' if the service is stopping."""
        if not self._message:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        message, self._message = self._message, b""
        return message


@dataclass(slots=True, eq=False)
class WatchedEvent:
    """The watchers of an event, and the message with the newest version that was polled."""

    # A queue: the watchers whose last message is the oldest come first. It is a dict because any
    # watcher can be removed from a dict quickly.
    watchers: dict[Watcher, None] = field(default_factory=dict)
    newest: Message | None = None

    def put(self, watcher: Watcher, message: bytes, now: float) -> None:
        """Set the next message of a watcher, and move the watcher to the end of the queue."""
        watcher.put(message, now)
        del self.watchers[watcher]
        self.watchers[watcher] = None


class Watchers:
    """All watchers of a process, and their poller."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._watched_events: dict[Uuid, WatchedEvent] = {}
        self.count = 0  # watchers of all events
        self.polls = 0  # queries sent
        self.closed = False

    @contextmanager
    def watch(self, event_id: Uuid) -> Iterator[Watcher]:
        """Add a watcher of an event for as long as the block runs."""
        watched = self._watched_events.setdefault(event_id, WatchedEvent())
        watcher = Watcher(put_at=asyncio.get_running_loop().time())
        watched.watchers[watcher] = None
        self.count += 1
        try:
            yield watcher
        finally:
            self.count -= 1
            del watched.watchers[watcher]
            if not watched.watchers:
                del self._watched_events[event_id]

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        for watched in self._watched_events.values():
            for watcher in watched.watchers:
                watcher.wake()

    async def run(self) -> None:
        """Poll until canceled."""
        while True:
            await asyncio.sleep(limits.STREAM_POLL_SECONDS)
            try:
                await self._poll()
            except psycopg.OperationalError as error:
                log.warning("the stream poller failed and will try again: %s", loggable(error))
            except UNAVAILABLE as error:
                log.warning("the stream poller failed and will try again: %s", type(error).__name__)
            except Exception:
                log.exception("the stream poller failed and will try again")

    async def _poll(self) -> None:
        try:
            await self._update_newest()
        finally:
            # Also if the query has failed: streams that get no keep-alive are closed by proxies.
            now = asyncio.get_running_loop().time()
            for watched in self._watched_events.values():
                _notify(watched, now)

    async def _update_newest(self) -> None:
        """Query the watched events that have changed, and set their newest messages."""
        if not self._watched_events:
            return
        self.polls += 1
        known_versions = {
            event_id: watched.newest.version if watched.newest else 0
            for event_id, watched in self._watched_events.items()
        }
        for event, last_change in await self._queries.list_news(known_versions):
            # The event's last watcher may have gone during the query.
            if watched := self._watched_events.get(event.id):
                watched.newest = Message.of(event, last_change)


def _notify(watched: WatchedEvent, now: float) -> None:
    """Give the newest version, or a keep-alive, to each watcher that is due for one."""
    quota, gap = len(watched.watchers), limits.STREAM_GAP_SECONDS
    if quota > limits.STREAM_CROWD:
        gap = limits.STREAM_CROWD_GAP_SECONDS
        # Notifying a whole crowd at once would delay other requests, so each poll notifies a part
        # of it. The watchers that have waited longest come first: even if polls are slow, every
        # watcher has its turn.
        quota = math.ceil(quota * limits.STREAM_POLL_SECONDS / gap)
    for watcher in list(watched.watchers):
        waited_seconds = now - watcher.put_at
        if waited_seconds < gap:
            break  # those behind it in the queue have not waited longer
        needs_keep_alive = waited_seconds >= limits.STREAM_KEEP_ALIVE_SECONDS
        if watched.newest and watcher.version < watched.newest.version:
            if quota > 0 or needs_keep_alive:
                quota -= 1
                watcher.version = watched.newest.version
                watched.put(watcher, watched.newest.encoded, now)
        elif needs_keep_alive and not watcher.has_unsent_message:
            watched.put(watcher, KEEP_ALIVE, now)


class EventStream(Response):
    """A stream to one watcher: its first messages, then new ones, until it disconnects.

    ``watching`` is the context that added the watcher. The stream closes it at its end, which
    removes the watcher.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        watchers: Watchers,
        watcher: Watcher,
        first_messages: Sequence[Message],
        watching: ExitStack,
    ) -> None:
        # nginx must not collect messages before it passes them on.
        super().__init__(headers={"X-Accel-Buffering": "no"}, media_type=self.media_type)
        del self.headers["content-length"]
        self._watchers = watchers
        self._watcher = watcher
        self._first_messages = first_messages
        self._watching = watching

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send until the client disconnects or the service stops."""
        with self._watching:
            tasks = [
                asyncio.create_task(self._send(send)),
                asyncio.create_task(_wait_for_disconnect(receive)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await _send_part(
            send, RETRY + b"".join(message.encoded for message in self._first_messages)
        )
        while not self._watchers.closed:
            if message := await self._watcher.get():
                await _send_part(send, message)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
