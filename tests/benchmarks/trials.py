"""The trials: what the service alone is put through, one at a time and for long.

A full table, ten minutes on end, more clients than the queue has room for, an event that a
stranger holds; and what one could have built instead. Each prints a table as it goes; what counts
are the ratios within it.
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
from tests.benchmarks.redis_ends import killed, moved
from tests.benchmarks.row_costs import ticket_rows
from tests.benchmarks.soak import soak
from tests.benchmarks.workloads import make_events, reservations

FULL_EVENTS, FULL_TICKETS = 5_000, 1_000
"""Events of the full table, and tickets of each."""

# Three of ten were given up, the others are paid for: what is left of seasons of sales.
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
    """Sell from a table of five million tickets and from one of none, in turn."""
    yield "round", "a second, none", "a second, 5 million", "ratio"
    with own_database() as empty, psycopg.connect(empty, autocommit=True) as database:
        database.execute("create database full_one")
        full = empty.replace("/holdfast?", "/full_one?")
        migrate(full, load_statements(resource("sql")))
        with psycopg.connect(full, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")  # spares the foreign keys
            connection.execute(FILL, {"events": FULL_EVENTS, "tickets": FULL_TICKETS})
            connection.execute("vacuum analyze")
            connection.execute("checkpoint")
        ratios = []
        for n in range(1, 8):
            none, many = _hot_rate(empty), _hot_rate(full)
            ratios.append(many / none)
            yield str(n), f"{none:,.0f}", f"{many:,.0f}", f"{many / none:.0%}"
        yield "median", "", "", f"{statistics.median(ratios):.0%}"


def ten_minutes() -> Iterator[tuple[str, ...]]:
    """Sell on end, with holds that lapse after 20 s, so that each ticket is written twice."""
    yield (
        *("second", "a second", "p99 ms", "service MB", "events kB", "private kB"),
        *("tickets MB", "their indexes MB", "tickets", "dead rows"),
    )
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        requests = reservations(make_events(database, 1))
        with serving("holdfast", dsn, {"HOLD_SECONDS": 20}) as (url, process):
            for second in range(0, 600, 30):
                told = load(url, requests, 100, 30)
                (row,) = database.execute(SIZES).fetchall()
                memory = peak_megabytes(process)
                yield (
                    *(f"{second + 30}", f"{told.rate(201):,.0f}", f"{told.p99:.0f}"),
                    *(f"{memory:.0f}", *(f"{value:,}" for value in row)),
                )


def overload() -> Iterator[tuple[str, ...]]:
    """Send up to 2,000 clients, none of which heeds Retry-After, to a queue for 500."""
    yield "clients", "201 a second", "of the best", "other answers", "lost", "longest ms", "MB"
    best = 0.0
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        requests = reservations(make_events(database, 1))
        with serving("holdfast", dsn, {"QUEUE_LIMIT": 500}) as (url, process):
            for clients in (100, 200, 400, 500, 1000, 2000, 500, 2000, 500, 2000):
                told = load(url, requests, clients, 8)
                best = max(best, told.rate(201))
                others = {status: n for status, n in told.statuses.items() if status != 201}
                yield (
                    *(f"{clients:,}", f"{told.rate(201):,.0f}", f"{told.rate(201) / best:.0%}"),
                    ", ".join(f"{status}: {n:,}" for status, n in others.items()),
                    *(f"{told.lost}", f"{told.longest:,.0f}", f"{peak_megabytes(process):.0f}"),
                )


def stuck_event() -> Iterator[tuple[str, ...]]:
    """Let a stranger hold one event's row for ten seconds, and sell others beside it."""
    yield (
        *("others", "free: a second", "held: a second", "ratio", "held: p99 ms"),
        *("the one's answers", "its longest ms"),
    )
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        one, *others = make_events(database, 1001)
        with serving("holdfast", dsn, {}) as (url, _), ThreadPoolExecutor(2) as pool:

            def both(width: int) -> tuple[Result, Result]:
                beside = pool.submit(load, url, reservations(others[:width]), 90, 10)
                own = pool.submit(load, url, reservations([one]), 10, 10)
                return beside.result(), own.result()

            for width in (1, 50, 1000) * 3:
                free, _ = both(width)
                with psycopg.connect(dsn) as stranger:
                    stranger.execute("select from events where id = %s for update", [one])
                    held, own = both(width)
                yield (
                    *(f"{width:,}", f"{free.rate(201):,.0f}", f"{held.rate(201):,.0f}"),
                    *(f"{held.rate(201) / free.rate(201):.0%}", f"{held.p99:.0f}"),
                    ", ".join(f"{status}: {n:,}" for status, n in own.statuses.items()),
                    f"{own.longest:,.0f}",
                )


def _hot_rate(dsn: str) -> float:
    with psycopg.connect(dsn, autocommit=True) as database:
        requests = reservations(make_events(database, 1))
    with serving("holdfast", dsn, {}) as (url, _):
        return load(url, requests, 100, 5).rate(201)


TRIALS: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
    "full-table": full_table,
    "ten-minutes": ten_minutes,
    "overload": overload,
    "stuck-event": stuck_event,
    "soak": lambda: soak(30),
    "alternatives": alternatives,
    "redis-killed": killed,
    "redis-moved": moved,
    "ticket-rows": ticket_rows,
}


def run(name: str, picture: Path | None = None) -> None:
    """Run a trial and print what came of it, a line at a time on stderr and then as a table."""
    heads, *rows = _shown(soak(30, picture) if name == "soak" else TRIALS[name]())
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def _shown(lines: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    console = Console(stderr=True)
    for line in lines:
        if console.is_terminal:
            console.print(*line, sep="  ")
        yield line
