"""The watchers: who watches which event, and the one reader that tells them all.

A few times a second the reader asks, in one query for all events that somebody watches, which of
them have changed; when nobody watches it asks nothing. What an event has become is encoded
once and handed to each of its watchers. A watcher is handed the newest of it alone: who reads
slowly misses what was between, never the end, and holds up nobody.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

from service import limits
from service.answers import WatchedEventAnswer, encode
from service.database import NO_ANSWER, told
from service.queries import Queries
from service.rows import Event, EventLedger, LastEvent, Uuid

log = logging.getLogger(__name__)


class News(NamedTuple):
    """What an event has become, ready to be sent."""

    version: int
    frame: bytes
    """A message of Server-Sent Events, the same for all who watch."""

    @classmethod
    def of(cls, event: Event, last: LastEvent | EventLedger) -> "News":
        """Return the news of an event and what happened to it last."""
        data = encode(WatchedEventAnswer.of_change(event, last))
        return cls(event.version, b"id: %d\ndata: %s\n\n" % (event.version, data))


@dataclass(slots=True, eq=False)
class Watcher:
    """One who watches an event."""

    version: int = limits.MAX_BIGINT
    """What it was told last; nothing older is told again. Until it is known what it is told
    first, it is told nothing."""
    not_before: float = 0.0
    """When it may be told again, in the event loop's time."""
    news: News | None = None
    """What it was handed and has not taken yet."""
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there are news, or when there will be none any more."""

    def tell(self, news: News) -> None:
        """Hand over what the event has become, in the place of anything that lies there."""
        self.news, self.version = news, news.version
        self.awake.set()

    def take(self) -> News | None:
        """Return what was handed over, once; None at the end of all."""
        news, self.news = self.news, None
        self.awake.clear()
        return news


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
        self.looks = 0
        """How often the database was asked."""
        self.closed = False

    @contextmanager
    def watching(self, event_id: Uuid) -> Iterator[Watcher]:
        """Let one more watch an event for as long as the block runs."""
        watched = self._watched.setdefault(event_id, Watched())
        watcher = Watcher()
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
                watcher.awake.set()

    async def run(self) -> None:
        """Look for news for ever; cancel it to end it."""
        while True:
            await asyncio.sleep(limits.STREAM_LOOK_SECONDS)
            try:
                await self._look()
            except psycopg.OperationalError as error:
                log.warning("the watchers' reader will look again: %s", told(error))
            except NO_ANSWER as error:
                log.warning("the watchers' reader will look again: %s", type(error).__name__)
            except Exception:
                log.exception("the watchers' reader will look again")

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._watched:
            return
        self.looks += 1
        known = {id_: one.news.version if one.news else 0 for id_, one in self._watched.items()}
        for event, last in await self._queries.list_news(known):
            # Nobody may watch it any more by now.
            if watched := self._watched.get(event.id):
                watched.news = News.of(event, last)
        for watched in self._watched.values():
            _tell_all(watched, now)


def _tell_all(watched: Watched, now: float) -> None:
    """Tell whoever does not know it yet and has not just been told something else."""
    if (news := watched.news) is None:
        return
    crowded = len(watched.watchers) > limits.STREAM_CROWD
    gap = limits.STREAM_CROWD_GAP_SECONDS if crowded else limits.STREAM_GAP_SECONDS
    for watcher in watched.watchers:
        if watcher.version < news.version and watcher.not_before <= now:
            watcher.not_before = now + gap
            watcher.tell(news)
