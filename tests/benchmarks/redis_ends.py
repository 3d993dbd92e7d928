"""What Redis has lost when it ends in the midst of a sale, and what moving out of it takes."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.settings import resource
from tests.benchmarks.contenders import own_database, serving
from tests.benchmarks.load import Request, load
from tests.benchmarks.stores import Disk, Redis
from tests.benchmarks.workloads import PLENTY, make_events, reservations

ROUNDS, CLIENTS = 3, 100
NOBODY = "00000000-0000-0000-0000-000000000000"

MAKE = """
for n = 1, ARGV[1] do
    local id = string.sub(KEYS[1], 1, 24) .. string.format('%012x', n)
    redis.call('hset', 'ticket:' .. id,
        'event', KEYS[1], 'owner', 'buyer-' .. n, 'status', 'reserved', 'ends', '1900000000')
    redis.call('rpush', 'tickets:' .. KEYS[1], id)
end
"""
READ = """
local rows = {}
for n, id in ipairs(redis.call('lrange', 'tickets:' .. KEYS[1], 0, -1)) do
    local ticket = redis.call('hmget', 'ticket:' .. id, 'owner', 'ends')
    rows[n] = id .. '\\t' .. ticket[1] .. '\\t' .. ticket[2]
end
return rows
"""
CREATE_MOVED = "create temporary table moved (id uuid, owner text, ends float) on commit drop"
INSERT_MOVED = """
insert into ticket_allocations (id, event_id, user_fingerprint, expires_at)
select id, %s, owner, to_timestamp(ends) from moved
"""
COUNT_MOVED = """
update events set allocated_tickets = allocated_tickets + (select count(*) from moved) where id = %s
"""


def moved() -> Iterator[tuple[str, ...]]:
    """Move the tickets of an event from Redis into the service's tables."""
    yield "tickets", "read, while Redis serves nobody", "written", "tickets a second"
    if not Redis.is_there():
        yield "no redis-server here", "", "", ""
        return
    with own_database() as dsn, tempfile.TemporaryDirectory(prefix="holdfast-redis-") as folder:
        for tickets in (10_000, 100_000, 500_000):
            with Redis(Path(folder), "everysec") as redis, psycopg.connect(dsn) as database:
                (event,) = make_events(database, 1)
                redis.ask("eval", MAKE, "1", event, str(tickets))
                begun = time.monotonic()
                rows = redis.ask("eval", READ, "1", event)
                read = time.monotonic() - begun
                database.execute(CREATE_MOVED)
                with database.cursor().copy("copy moved from stdin") as copy:
                    copy.write("\n".join(rows))
                database.execute(INSERT_MOVED, [event])
                database.execute(COUNT_MOVED, [event])
                database.commit()
                took = time.monotonic() - begun
                assert len(rows) == tickets
                redis.ask("flushall")
            rate = f"{tickets / took:,.0f}"
            yield f"{tickets:,}", f"{read:.2f} s", f"{took - read:.2f} s", rate


def killed() -> Iterator[tuple[str, ...]]:
    """End Redis, or PostgreSQL, in the midst of a sale, and look for what was acknowledged."""
    yield "", "ended by", "acknowledged", "found", "missing", "back after s"
    if not Redis.is_there():
        yield "Redis", "no redis-server here", "", "", "", ""
    fsyncs = ("everysec", "always") if Redis.is_there() else ()
    for _ in range(ROUNDS):
        for fsync in fsyncs:
            for how in ("kill -9", "a power cut"):
                yield _told_of_the_dead(f"Redis, {fsync}", how, partial(_RedisSale, fsync))
        yield _told_of_the_dead("the service", "a power cut", _ServiceSale)


class _RedisSale:
    """A sale in Redis, on a disk."""

    def __init__(self, fsync: str) -> None:
        self._fsync = fsync
        self._event = NOBODY

    @contextmanager
    def running(self, folder: Path) -> Iterator[Callable[[], None]]:
        with Redis(folder, self._fsync) as self._redis:
            yield self._redis.kill

    @contextmanager
    def selling(self) -> Iterator[tuple[str, list[Request]]]:
        self._redis.ask("hset", f"event:{self._event}", "available", str(PLENTY))
        with serving("redis", "", {"REDIS_SOCKET": self._redis.socket}) as (url, _):
            yield url, reservations([self._event])

    def found(self) -> int:
        return int(self._redis.ask("llen", f"tickets:{self._event}")[0])


class _ServiceSale:
    """A sale by the service, on a disk."""

    @contextmanager
    def running(self, folder: Path) -> Iterator[Callable[[], None]]:
        with EmbeddedPostgres(folder / "data") as postgres:
            assert postgres.dsn is not None
            self._dsn = postgres.dsn
            migrate(self._dsn, load_statements(resource("sql")))
            pid_file = postgres.cluster / "postmaster.pid"
            yield lambda: os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)

    @contextmanager
    def selling(self) -> Iterator[tuple[str, list[Request]]]:
        with psycopg.connect(self._dsn, autocommit=True) as database:
            requests = reservations(make_events(database, 1))
        with serving("holdfast", self._dsn, {}) as (url, _):
            yield url, requests

    def found(self) -> int:
        with psycopg.connect(self._dsn) as database:
            (row,) = database.execute("select count(*) from ticket_allocations").fetchall()
        return int(row[0])


def _told_of_the_dead(
    name: str, how: str, make: Callable[[], _RedisSale | _ServiceSale]
) -> tuple[str, ...]:
    sale = make()
    with Disk.made() as disk, ThreadPoolExecutor(1) as pool:
        if disk is None:
            return name, how, "a disk cannot be mounted here", "", "", ""
        with sale.running(disk.folder) as kill, sale.selling() as (url, requests):
            loading = pool.submit(load, url, requests, CLIENTS, 4)
            # Not at the same point of Redis's second each time.
            time.sleep(2 + os.urandom(1)[0] / 256)
            kill()
            if how == "a power cut":
                disk.cut()
            acknowledged = loading.result().statuses.get(201, 0)
        disk.unmount()
        disk.mount()
        begun = time.monotonic()
        with sale.running(disk.folder):
            back, found = time.monotonic() - begun, sale.found()
    missing = f"{max(acknowledged - found, 0):,}"
    return name, how, f"{acknowledged:,}", f"{found:,}", missing, f"{back:.2f}"
