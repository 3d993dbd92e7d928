"""The alternatives, on the same machine and under the same load: Redis, a queue, SKIP LOCKED.

Each is written for speed alone, without the ledger, expiry and keys that the service has: so what
they sell more is the most that they could.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.benchmarks.contenders import own_database, serving
from tests.benchmarks.load import load
from tests.benchmarks.queued import CREATE_QUEUE
from tests.benchmarks.stores import Redis
from tests.benchmarks.ticket_rows import make_rows
from tests.benchmarks.workloads import PLENTY, make_events, reservations

ROUNDS, SECONDS, CLIENTS = 3, 3, 100
FREE_ROWS = 100_000


@dataclass(frozen=True)
class Contender:
    """A way to sell tickets: what serves it, with what variables, and what it keeps them in."""

    name: str
    serves: str
    variables: Mapping[str, object] = field(default_factory=dict)
    fsync: str = ""
    """Of Redis; empty: it needs none."""


SERVICE = Contender("the service", "holdfast")
ALL = (
    SERVICE,
    Contender("no database", "no database"),
    Contender("textbook", "textbook"),
    Contender("Redis, everysec", "redis", fsync="everysec"),
    Contender("Redis, always", "redis", fsync="always"),
    Contender("queue, the answer waited for", "queue"),
    Contender("queue, 202 and later", "queue", {"TOLD_LATER": 1}),
    Contender("a row per ticket", "ticket rows"),
    Contender("a row per ticket, batched", "ticket rows", {"BATCHED": 1}),
)


def alternatives() -> Iterator[tuple[str, ...]]:
    """Sell one hot event by each way in turn, and tell the medians of the rounds."""
    yield "", "tickets a second", "of the service", "p50 ms", "p99 ms", "longest ms"
    there = [one for one in ALL if not one.fsync or Redis.is_there()]
    told: dict[str, list[tuple[float, float, float, float]]] = {one.name: [] for one in there}
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        for _ in range(ROUNDS):
            for one in there:
                told[one.name].append(_sell(one, dsn, database))
    ours = statistics.median(rate for rate, *_ in told[SERVICE.name])
    for name, rounds in told.items():
        rate, *waits = (statistics.median(figures) for figures in zip(*rounds, strict=True))
        yield name, f"{rate:,.0f}", f"{rate / ours:.0%}", *(f"{wait:,.1f}" for wait in waits)
    for one in ALL:
        if one not in there:
            yield one.name, "no redis-server here", "", "", "", ""


def _sell(
    one: Contender, dsn: str, database: psycopg.Connection
) -> tuple[float, float, float, float]:
    """Return tickets a second, and p50, p99 and the longest wait until a buyer knows, in ms."""
    (event,) = make_events(database, 1)
    if one.serves == "queue":
        database.execute(CREATE_QUEUE)
    if one.serves == "ticket rows":
        make_rows(database, event, FREE_ROWS)
    with ExitStack() as stack:
        variables = dict(one.variables)
        if one.fsync:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-redis-"))
            redis = stack.enter_context(Redis(Path(folder), one.fsync))
            variables["REDIS_SOCKET"] = redis.socket
            redis.ask("hset", f"event:{event}", "available", str(PLENTY))
        url, _ = stack.enter_context(serving(one.serves, dsn, variables))
        result = load(url, reservations([event]), CLIENTS, SECONDS)
        if "TOLD_LATER" in variables:
            return _told_later(database)
    assert set(result.statuses) == {201}, (one, result)
    return result.rate(201), result.p50, result.p99, result.longest


def _told_later(database: psycopg.Connection) -> tuple[float, float, float, float]:
    """Wait until the worker is through, and read from its table what the load cannot know."""
    waiting = "select from requests where answered_at is null limit 1"
    while database.execute(waiting).fetchone():
        time.sleep(0.05)
    (row,) = database.execute(
        """
        select
            sum(cardinality(ticket_ids))
            / extract(epoch from max(answered_at) - min(asked_at))::float,
            percentile_cont(0.5) within group (order by extract(epoch from answered_at - asked_at)),
            percentile_cont(0.99)
            within group (order by extract(epoch from answered_at - asked_at)),
            extract(epoch from max(answered_at - asked_at))::float
        from requests
        """
    ).fetchall()
    rate, *waits = row
    return (rate, *(1000 * wait for wait in waits))
