"""What Redis loses when it fails during a sale, and how long an import from Redis takes."""

import os
import signal
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
from service.temporary import TemporaryFolder
from tests.benchmarks.contenders import own_database, serving
from tests.benchmarks.load import Request, load
from tests.benchmarks.stores import Disk, Redis
from tests.benchmarks.workloads import PLENTY, make_events, reservations

ROUNDS, CLIENTS = 3, 100
EVENT = "00000000-0000-0000-0000-000000000000"

CREATE_TICKETS = """
for n = 1, ARGV[1] do
    local id = string.sub(KEYS[1], 1, 24) .. string.format('%012x', n)
    redis.call('hset', 'ticket:' .. id,
        'event', KEYS[1], 'owner', 'buyer-' .. n, 'status', 'reserved', 'ends', '1900000000')
    redis.call('rpush', 'tickets:' .. KEYS[1], id)
end
"""
READ_TICKETS = """
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


def import_from_redis() -> Iterator[tuple[str, ...]]:
    """Import the tickets of an event from Redis into the service's tables."""
    yield "tickets", "read (blocks Redis)", "written", "tickets per second"
    if not Redis.is_installed():
        yield "redis-server is not installed", "", "", ""
        return
    with own_database() as dsn, TemporaryFolder.create("redis") as folder:
        for tickets in (10_000, 100_000, 500_000):
            with Redis(folder.path, "everysec") as redis, psycopg.connect(dsn) as database:
                (event,) = make_events(database, 1)
                redis.call("eval", CREATE_TICKETS, "1", event, str(tickets))
                start_time = time.monotonic()
                rows = redis.call("eval", READ_TICKETS, "1", event)
                read_seconds = time.monotonic() - start_time
                database.execute(CREATE_MOVED)
                with database.cursor().copy("copy moved from stdin") as copy:
                    copy.write("\n".join(rows))
                database.execute(INSERT_MOVED, [event])
                database.execute(COUNT_MOVED, [event])
                database.commit()
                seconds = time.monotonic() - start_time
                assert len(rows) == tickets
                redis.call("flushall")
            rate = f"{tickets / seconds:,.0f}"
            yield f"{tickets:,}", f"{read_seconds:.2f} s", f"{seconds - read_seconds:.2f} s", rate


def kill_during_sale() -> Iterator[tuple[str, ...]]:
    """Let Redis or PostgreSQL fail during a sale, and look for the acknowledged tickets."""
    yield "", "failure", "acknowledged", "found", "missing", "restart s"
    if not Redis.is_installed():
        yield "Redis", "redis-server is not installed", "", "", "", ""
    fsync_settings = ("everysec", "always") if Redis.is_installed() else ()
    for _ in range(ROUNDS):
        for fsync in fsync_settings:
            for failure in ("kill -9", "power cut"):
                yield _fail_during_sale(f"Redis, {fsync}", failure, partial(_RedisSale, fsync))
        yield _fail_during_sale("the service", "power cut", _ServiceSale)


class _RedisSale:
    """A sale with Redis on a disk."""

    def __init__(self, fsync: str) -> None:
        self._fsync = fsync
        self._event = EVENT

    @contextmanager
    def running(self, folder: Path) -> Iterator[Callable[[], None]]:
        with Redis(folder, self._fsync) as self._redis:
            yield self._redis.kill

    @contextmanager
    def selling(self) -> Iterator[tuple[str, list[Request]]]:
        self._redis.call("hset", f"event:{self._event}", "available", str(PLENTY))
        with serving("redis", "", {"REDIS_SOCKET": self._redis.socket}) as (url, _):
            yield url, reservations([self._event])

    def count_tickets(self) -> int:
        return int(self._redis.call("llen", f"tickets:{self._event}")[0])


class _ServiceSale:
    """A sale with the service on a disk."""

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

    def count_tickets(self) -> int:
        with psycopg.connect(self._dsn) as database:
            (row,) = database.execute("select count(*) from ticket_allocations").fetchall()
        return int(row[0])


def _fail_during_sale(
    name: str, failure: str, make_sale: Callable[[], _RedisSale | _ServiceSale]
) -> tuple[str, ...]:
    sale = make_sale()
    with Disk.create() as disk, ThreadPoolExecutor(1) as pool:
        if disk is None:
            return name, failure, "no right to mount a disk", "", "", ""
        with sale.running(disk.folder) as kill, sale.selling() as (url, requests):
            loading = pool.submit(load, url, requests, CLIENTS, 4)
            # Fail at a random point of the second between two fsyncs of Redis.
            time.sleep(2 + os.urandom(1)[0] / 256)
            kill()
            if failure == "power cut":
                disk.cut()
            acknowledged = loading.result().statuses.get(201, 0)
        disk.unmount()
        disk.mount()
        start_time = time.monotonic()
        with sale.running(disk.folder):
            restart_seconds, tickets = time.monotonic() - start_time, sale.count_tickets()
    missing = f"{max(acknowledged - tickets, 0):,}"
    return (
        name,
        failure,
        f"{acknowledged:,}",
        f"{tickets:,}",
        missing,
        f"{restart_seconds:.2f}",
    )
