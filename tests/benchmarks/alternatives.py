"""The alternatives on the same machine and under the same load: Redis, a queue, SKIP LOCKED.

Each is written for speed alone, without ledger, expiry and keys, so its rate is an upper bound.
"""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg

from service.temporary import TemporaryFolder
from tests.benchmarks.contenders import own_database, serving
from tests.benchmarks.load import load
from tests.benchmarks.queued import CREATE_QUEUE
from tests.benchmarks.stores import Redis
from tests.benchmarks.ticket_rows import make_rows
from tests.benchmarks.workloads import PLENTY, make_events, reservations

ROUNDS, SECONDS, CLIENTS = 3, 3, 100
ROWS = 100_000


@dataclass(frozen=True)
class Contender:
    """A way to sell tickets: the program, its environment variables and its store."""

    name: str
    serves: str
    variables: Mapping[str, object] = field(default_factory=dict)
    fsync: str = ""  # appendfsync of Redis; empty if it does not use Redis


SERVICE = Contender("the service", "holdfast")
ALL = (
    SERVICE,
    Contender("no database", "no database"),
    Contender("textbook", "textbook"),
    Contender("Redis, everysec", "redis", fsync="everysec"),
    Contender("Redis, always", "redis", fsync="always"),
    Contender("queue, waiting for the outcome", "queue"),
    Contender("queue, responding 202 at once", "queue", {"RESPONDS_AT_ONCE": 1}),
    Contender("a row per ticket", "ticket rows"),
    Contender("a row per ticket, batched", "ticket rows", {"BATCHED": 1}),
)


def alternatives() -> Iterator[tuple[str, ...]]:
    """Sell one hot event with each contender in turn, and yield the medians of the rounds."""
    yield "", "tickets per second", "of the service", "p50 ms", "p99 ms", "longest ms"
    available = [contender for contender in ALL if not contender.fsync or Redis.is_installed()]
    results: dict[str, list[tuple[float, float, float, float]]] = {
        contender.name: [] for contender in available
    }
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        for _ in range(ROUNDS):
            for contender in available:
                results[contender.name].append(_sell(contender, dsn, database))
    service_rate = statistics.median(rate for rate, *_ in results[SERVICE.name])
    for name, rounds in results.items():
        rate, *waits = (statistics.median(figures) for figures in zip(*rounds, strict=True))
        yield (
            name,
            f"{rate:,.0f}",
            f"{rate / service_rate:.0%}",
            *(f"{wait:,.1f}" for wait in waits),
        )
    for contender in ALL:
        if contender not in available:
            yield contender.name, "redis-server is not installed", "", "", "", ""


def _sell(
    contender: Contender, dsn: str, database: psycopg.Connection
) -> tuple[float, float, float, float]:
    """Return tickets per second, and p50, p99 and maximum latency of the outcome in ms."""
    (event,) = make_events(database, 1)
    if contender.serves == "queue":
        database.execute(CREATE_QUEUE)
    if contender.serves == "ticket rows":
        make_rows(database, event, ROWS)
    with ExitStack() as stack:
        variables = dict(contender.variables)
        if contender.fsync:
            folder = stack.enter_context(TemporaryFolder.create("redis"))
            redis = stack.enter_context(Redis(folder.path, contender.fsync))
            variables["REDIS_SOCKET"] = redis.socket
            redis.call("hset", f"event:{event}", "available", str(PLENTY))
        url, _ = stack.enter_context(serving(contender.serves, dsn, variables))
        result = load(url, reservations([event]), CLIENTS, SECONDS)
        if "RESPONDS_AT_ONCE" in variables:
            return _measure_later_responses(database)
    assert set(result.statuses) == {201}, (contender, result)
    return result.rate(201), result.p50, result.p99, result.longest


def _measure_later_responses(database: psycopg.Connection) -> tuple[float, float, float, float]:
    """Wait until the worker is done, and measure from its table what the load cannot see."""
    waiting = "select from requests where decided_at is null limit 1"
    while database.execute(waiting).fetchone():
        time.sleep(0.05)
    (row,) = database.execute(
        """
        select
            sum(cardinality(ticket_ids))
            / extract(epoch from max(decided_at) - min(received_at))::float,
            percentile_cont(0.5)
            within group (order by extract(epoch from decided_at - received_at)),
            percentile_cont(0.99)
            within group (order by extract(epoch from decided_at - received_at)),
            extract(epoch from max(decided_at - received_at))::float
        from requests
        """
    ).fetchall()
    rate, *waits = row
    return (rate, *(1000 * wait for wait in waits))
