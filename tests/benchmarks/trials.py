"""The trials: longer measurements, one at a time.

A full table, ten minutes of sales, more clients than the queue has room for, a locked event, an
opening; and the alternatives to the service. Each prints a table; compare the ratios within it.
"""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.settings import resource
from tests.benchmarks.alternatives import alternatives
from tests.benchmarks.contenders import own_database, peak_megabytes, serving
from tests.benchmarks.load import Result, load
from tests.benchmarks.opening import opening
from tests.benchmarks.redis_ends import import_from_redis, kill_during_sale
from tests.benchmarks.row_costs import ticket_rows
from tests.benchmarks.soak import soak
from tests.benchmarks.workloads import make_events, reservations

# The number of events in the full table, and of the tickets of each.
FULL_EVENTS, FULL_TICKETS = 5_000, 1_000

# Like the tickets of past seasons, seven of ten are purchased and three expired.
FILL = """
with made as (
    insert into events (name, date, total_tickets, allocated_tickets, purchased_tickets)
    select 'season ' || n, '2020-01-01', %(tickets)s, %(tickets)s * 7 / 10, %(tickets)s * 7 / 10
    from generate_series(1, %(events)s) as n
    returning id
)

insert into ticket_allocations (id, reservation_id, event_id, user_fingerprint, status)
select
    derived_id(made.id, n, 1),
    derived_id(made.id, n, 0),
    made.id,
    'buyer ' || n || made.id,
    (case when n %% 10 < 7 then 'purchased' else 'expired' end)::allocation_status
from made
cross join generate_series(1, %(tickets)s) as n
"""

SIZES = """
select
    pg_table_size('events') / 1024 as events,
    pg_table_size('event_private') / 1024 as private,
    pg_table_size('ticket_allocations') / 1048576 as tickets,
    pg_indexes_size('ticket_allocations') / 1048576 as indexes,
    (select count(*) from ticket_allocations) as rows,
    (select n_dead_tup from pg_stat_user_tables where relname = 'ticket_allocations') as dead
"""


def full_table() -> Iterator[tuple[str, ...]]:
    """Sell from an empty table and from one with five million tickets, in turn."""
    yield "round", "per second, empty", "per second, 5 million", "ratio"
    with own_database() as empty, psycopg.connect(empty, autocommit=True) as database:
        database.execute("create database full_one")
        full = empty.replace("/holdfast?", "/full_one?")
        migrate(full, load_statements(resource("sql")))
        with psycopg.connect(full, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")  # no foreign keys: faster
            connection.execute(FILL, {"events": FULL_EVENTS, "tickets": FULL_TICKETS})
            connection.execute("vacuum analyze")
            connection.execute("checkpoint")
        ratios = []
        for n in range(1, 8):
            empty_rate, full_rate = _hot_event_rate(empty), _hot_event_rate(full)
            ratios.append(full_rate / empty_rate)
            yield str(n), f"{empty_rate:,.0f}", f"{full_rate:,.0f}", f"{full_rate / empty_rate:.0%}"
        yield "median", "", "", f"{statistics.median(ratios):.0%}"


def ten_minutes() -> Iterator[tuple[str, ...]]:
    """Sell for ten minutes, with holds that expire after 20 s, so each ticket is written twice."""
    yield (
        *("second", "per second", "p99 ms", "service MB", "events kB", "private kB"),
        *("tickets MB", "their indexes MB", "tickets", "dead rows"),
    )
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        requests = reservations(make_events(database, 1))
        with serving("holdfast", dsn, {"HOLD_SECONDS": 20}) as (url, process):
            for second in range(0, 600, 30):
                result = load(url, requests, 100, 30)
                (row,) = database.execute(SIZES).fetchall()
                memory = peak_megabytes(process)
                yield (
                    *(f"{second + 30}", f"{result.rate(201):,.0f}", f"{result.p99:.0f}"),
                    *(f"{memory:.0f}", *(f"{value:,}" for value in row)),
                )


def overload() -> Iterator[tuple[str, ...]]:
    """Send up to 2,000 clients that ignore Retry-After to a queue for 500."""
    yield "clients", "201 per second", "of the best", "other responses", "lost", "longest ms", "MB"
    best = 0.0
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        requests = reservations(make_events(database, 1))
        with serving("holdfast", dsn, {"QUEUE_LIMIT": 500}) as (url, process):
            for clients in (100, 200, 400, 500, 1000, 2000, 500, 2000, 500, 2000):
                result = load(url, requests, clients, 8)
                best = max(best, result.rate(201))
                others = {status: n for status, n in result.statuses.items() if status != 201}
                yield (
                    *(f"{clients:,}", f"{result.rate(201):,.0f}", f"{result.rate(201) / best:.0%}"),
                    ", ".join(f"{status}: {n:,}" for status, n in others.items()),
                    *(f"{result.lost}", f"{result.longest:,.0f}", f"{peak_megabytes(process):.0f}"),
                )


def stuck_event() -> Iterator[tuple[str, ...]]:
    """Lock the row of one event for ten seconds, and sell other events at the same time."""
    yield (
        *("others", "unlocked: per second", "locked: per second", "ratio", "locked: p99 ms"),
        *("responses of the locked event", "its longest ms"),
    )
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        stuck, *others = make_events(database, 1001)
        with serving("holdfast", dsn, {}) as (url, _), ThreadPoolExecutor(2) as pool:

            def load_both(width: int) -> tuple[Result, Result]:
                others_load = pool.submit(load, url, reservations(others[:width]), 90, 10)
                stuck_load = pool.submit(load, url, reservations([stuck]), 10, 10)
                return others_load.result(), stuck_load.result()

            for width in (1, 50, 1000) * 3:
                unlocked, _ = load_both(width)
                with psycopg.connect(dsn) as other_connection:
                    other_connection.execute("select from events where id = %s for update", [stuck])
                    locked, stuck_load = load_both(width)
                yield (
                    *(f"{width:,}", f"{unlocked.rate(201):,.0f}", f"{locked.rate(201):,.0f}"),
                    *(f"{locked.rate(201) / unlocked.rate(201):.0%}", f"{locked.p99:.0f}"),
                    ", ".join(f"{status}: {n:,}" for status, n in stuck_load.statuses.items()),
                    f"{stuck_load.longest:,.0f}",
                )


def _hot_event_rate(dsn: str) -> float:
    with psycopg.connect(dsn, autocommit=True) as database:
        requests = reservations(make_events(database, 1))
    with serving("holdfast", dsn, {}) as (url, _):
        return load(url, requests, 100, 5).rate(201)


TRIALS: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
    "full-table": full_table,
    "ten-minutes": ten_minutes,
    "overload": overload,
    "stuck-event": stuck_event,
    "opening": opening,
    "soak": lambda: soak(30),
    "alternatives": alternatives,
    "redis-killed": kill_during_sale,
    "redis-moved": import_from_redis,
    "ticket-rows": ticket_rows,
}


def run_trial(name: str, file: Path | None = None) -> None:
    """Run a trial and print its results: each row on stderr at once, and a table at the end."""
    columns, *rows = _print_progress(soak(30, file) if name == "soak" else TRIALS[name]())
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def _print_progress(lines: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    console = Console(stderr=True)
    for line in lines:
        if console.is_terminal:
            console.print(*line, sep="  ")
        yield line
