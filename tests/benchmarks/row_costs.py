"""What a row per ticket costs, and what it tells a crowd, beside the same of the service."""

import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.benchmarks.contenders import own_database, serving
from tests.benchmarks.load import load
from tests.benchmarks.ticket_rows import FILL, make_rows
from tests.benchmarks.workloads import make_events, reservations

SECONDS, CLIENTS = 3, 100
MILLION = 1_000_000
PEOPLE, CROWDS = 60, 40

COUNT_FREE = """
select count(*) from ticket_rows where event_id = %s and user_fingerprint is null
"""
SELL_ROWS = """
update ticket_rows set user_fingerprint = 'buyer ' || id, reserved_at = now()
where event_id = %(rows)s and user_fingerprint is null and id <= 900000
"""
SELL_ALL_ROWS = """
update ticket_rows set user_fingerprint = 'buyer ' || id, reserved_at = now()
where event_id = %(rows)s and user_fingerprint is null
"""
SELL_TICKETS = """
update events set total_tickets = allocated_tickets + 100000 where id = %(ours)s
"""
"""A sold ticket stands in no other's way here: see the trial full-table."""
SELL_ALL_TICKETS = """
update events set total_tickets = allocated_tickets where id = %(ours)s
"""
DEAD = "select n_dead_tup from pg_stat_user_tables where relname = %s"


def ticket_rows() -> Iterator[tuple[str, ...]]:
    """Tell what a row per ticket costs and what it says, beside the same of the service."""
    yield "", "a row per ticket", "the service"
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        (event,), begun = make_events(database, 1, MILLION), time.monotonic()
        (ours,) = make_events(database, 1, MILLION)
        made = time.monotonic() - begun
        took = make_rows(database, event, MILLION)
        yield "a million tickets are made in", f"{took:.1f} s", f"{made * 1000:.1f} ms"
        (size,) = _row(database, "select pg_total_relation_size('ticket_rows') / 1048576")
        yield "and take", f"{size} MB", "a row"
        looks = (COUNT_FREE, event), ("select total_tickets from events where id = %s", ours)
        yield "how many are left is known after", *(_milliseconds(database, *one) for one in looks)
        for heading, before in (
            ("tickets a second, at the start", ()),
            ("the same beside an open snapshot", ()),
            ("with 100,000 of them left", (SELL_ROWS, SELL_TICKETS)),
            ("refusals a second, when sold out", (SELL_ALL_ROWS, SELL_ALL_TICKETS)),
        ):
            for statement in before:
                database.execute(statement, {"rows": event, "ours": ours})
            with psycopg.connect(dsn) as stranger:
                if "snapshot" in heading:
                    stranger.execute("set transaction isolation level repeatable read")
                    stranger.execute("select 1 from events limit 1")
                yield heading, *_loaded(dsn, event, ours, 409 if "refusals" in heading else 201)
        yield (
            "tickets that are dead rows then",
            *(
                "{:,}".format(*_row(database, DEAD, table))
                for table in ("ticket_rows", "ticket_allocations")
            ),
        )
        crowds = [_crowds(dsn, database, serves) for serves in ("ticket rows", "holdfast")]
        yield (
            "crowds of 60 who want 10 each of 100 and left some",
            *(f"{n} of {CROWDS}" for n, _ in crowds),
        )
        yield "tickets that they left", *(f"{left:,} of {CROWDS * 100:,}" for _, left in crowds)
        yield "who asks while one has the last who gives it up is told", *_given_up(dsn, database)


def _row(database: psycopg.Connection, statement: str, *parameters: object) -> tuple[int, ...]:
    (row,) = database.execute(statement.encode(), parameters).fetchall()
    return tuple(row)


def _milliseconds(database: psycopg.Connection, statement: str, event: str) -> str:
    times = []
    for _ in range(5):
        begun = time.monotonic()
        _row(database, statement, event)
        times.append(1000 * (time.monotonic() - begun))
    return f"{statistics.median(times):.1f} ms"


def _loaded(dsn: str, rows: str, ours: str, status: int) -> Iterator[str]:
    for serves, event in (("ticket rows", rows), ("holdfast", ours)):
        with serving(serves, dsn, {}) as (url, _):
            result = load(url, reservations([event]), CLIENTS, SECONDS)
        yield f"{result.rate(status):,.0f} (p99 {result.p99:,.0f} ms)"


def _crowds(dsn: str, database: psycopg.Connection, serves: str) -> tuple[int, int]:
    """Send crowds who want 10 each of 100; return how many left some, and how many they left."""
    events = make_events(database, CROWDS, 100)
    if serves == "ticket rows":
        for event in events:
            database.execute(FILL, [event, 100])
    with serving(serves, dsn, {}) as (url, _):
        left = [100 - 10 * _crowd(url, event) for event in events]
    return sum(one > 0 for one in left), sum(left)


def _crowd(url: str, event: str) -> int:
    """Have so many people ask for 10 tickets at the same moment, once; return how many got them."""
    start = threading.Barrier(PEOPLE)

    def person(_: int) -> int:
        return _ask(url, event, 10, start)

    with ThreadPoolExecutor(PEOPLE) as pool:
        return sum(status == 201 for status in pool.map(person, range(PEOPLE)))


def _ask(url: str, event: str, quantity: int, start: threading.Barrier | None = None) -> int:
    """Ask for tickets, with all who wait at the same barrier, and return the answer's status."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.connect()
    if start is not None:
        start.wait()
    body = json.dumps({"quantity": quantity, "userFingerprint": "buyer"})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/events/{event}/tickets", body, headers)
    with connection.getresponse() as answer:
        status = answer.status
    connection.close()
    return status


def _given_up(dsn: str, database: psycopg.Connection) -> Iterator[str]:
    """Tell what is answered to one who asks while another has the last ticket, but not for long."""
    for serves, lock in (
        ("ticket rows", "select from ticket_rows where event_id = %s for update"),
        ("holdfast", "select from events where id = %s for update"),
    ):
        (event,) = make_events(database, 1, 1)
        database.execute(FILL, [event, 1])
        with serving(serves, dsn, {}) as (url, _), ThreadPoolExecutor(1) as pool:
            with psycopg.connect(dsn) as other:
                other.execute(lock.encode(), [event])
                answer = pool.submit(_ask, url, event, 1)
                time.sleep(0.5)
                other.rollback()
            yield {201: "201: reserved", 409: "409: sold out"}[answer.result()]
