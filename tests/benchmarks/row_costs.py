"""The costs of a row per ticket, and how it serves a crowd, compared with the service."""

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
from tests.benchmarks.ticket_rows import INSERT_ROWS, make_rows
from tests.benchmarks.workloads import make_events, reservations

SECONDS, CLIENTS = 3, 100
MILLION = 1_000_000
PEOPLE, CROWDS = 60, 40

COUNT_AVAILABLE = """
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
# Sold tickets do not slow the service down: see the trial full-table.
SELL_TICKETS = """
update events set total_tickets = allocated_tickets + 100000 where id = %(event)s
"""
SELL_ALL_TICKETS = """
update events set total_tickets = allocated_tickets where id = %(event)s
"""
DEAD_ROWS = "select n_dead_tup from pg_stat_user_tables where relname = %s"


def ticket_rows() -> Iterator[tuple[str, ...]]:
    """Compare a row per ticket with the service: time, space, rates and refusals."""
    yield "", "a row per ticket", "the service"
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        (event,), start_time = make_events(database, 1, MILLION), time.monotonic()
        (event_of_service,) = make_events(database, 1, MILLION)
        service_seconds = time.monotonic() - start_time
        row_seconds = make_rows(database, event, MILLION)
        yield (
            "time to create a million tickets",
            f"{row_seconds:.1f} s",
            f"{service_seconds * 1000:.1f} ms",
        )
        (size,) = _row(database, "select pg_total_relation_size('ticket_rows') / 1048576")
        yield "space for them", f"{size} MB", "a row"
        lookups = (
            (COUNT_AVAILABLE, event),
            ("select total_tickets from events where id = %s", event_of_service),
        )
        yield (
            "time to count the available tickets",
            *(_median_milliseconds(database, *lookup) for lookup in lookups),
        )
        for heading, statements in (
            ("tickets per second, at the start", ()),
            ("the same with an open snapshot", ()),
            ("the same with 100,000 tickets available", (SELL_ROWS, SELL_TICKETS)),
            ("refusals per second, when sold out", (SELL_ALL_ROWS, SELL_ALL_TICKETS)),
        ):
            for statement in statements:
                database.execute(statement, {"rows": event, "event": event_of_service})
            with psycopg.connect(dsn) as other_connection:
                if "snapshot" in heading:
                    other_connection.execute("set transaction isolation level repeatable read")
                    other_connection.execute("select 1 from events limit 1")
                yield (
                    heading,
                    *_measure_load(
                        dsn, event, event_of_service, 409 if "refusals" in heading else 201
                    ),
                )
        yield (
            "dead rows of the tickets after that",
            *(
                "{:,}".format(*_row(database, DEAD_ROWS, table))
                for table in ("ticket_rows", "ticket_allocations")
            ),
        )
        crowds = [
            _send_crowds(dsn, database, contender) for contender in ("ticket rows", "holdfast")
        ]
        yield (
            "crowds (60 buyers, 10 tickets each, of 100) with unsold tickets",
            *(f"{n} of {CROWDS}" for n, _ in crowds),
        )
        yield "unsold tickets", *(f"{unsold:,} of {CROWDS * 100:,}" for _, unsold in crowds)
        yield "response while the last ticket is only locked", *_last_ticket_locked(dsn, database)


def _row(database: psycopg.Connection, statement: str, *parameters: object) -> tuple[int, ...]:
    (row,) = database.execute(statement.encode(), parameters).fetchall()
    return tuple(row)


def _median_milliseconds(database: psycopg.Connection, statement: str, event: str) -> str:
    times = []
    for _ in range(5):
        start_time = time.monotonic()
        _row(database, statement, event)
        times.append(1000 * (time.monotonic() - start_time))
    return f"{statistics.median(times):.1f} ms"


def _measure_load(dsn: str, rows: str, event_of_service: str, status: int) -> Iterator[str]:
    for contender, event in (("ticket rows", rows), ("holdfast", event_of_service)):
        with serving(contender, dsn, {}) as (url, _):
            result = load(url, reservations([event]), CLIENTS, SECONDS)
        yield f"{result.rate(status):,.0f} (p99 {result.p99:,.0f} ms)"


def _send_crowds(dsn: str, database: psycopg.Connection, contender: str) -> tuple[int, int]:
    """Let crowds buy 10 of 100 tickets each; count events not sold out, and unsold tickets."""
    events = make_events(database, CROWDS, 100)
    if contender == "ticket rows":
        for event in events:
            database.execute(INSERT_ROWS, [event, 100])
    with serving(contender, dsn, {}) as (url, _):
        unsold = [100 - 10 * _send_crowd(url, event) for event in events]
    return sum(tickets > 0 for tickets in unsold), sum(unsold)


def _send_crowd(url: str, event: str) -> int:
    """Let PEOPLE buyers request 10 tickets at once; return how many got them."""
    start = threading.Barrier(PEOPLE)

    def person(_: int) -> int:
        return _reserve(url, event, 10, start)

    with ThreadPoolExecutor(PEOPLE) as pool:
        return sum(status == 201 for status in pool.map(person, range(PEOPLE)))


def _reserve(url: str, event: str, quantity: int, start: threading.Barrier | None = None) -> int:
    """Request tickets, after the barrier if there is one, and return the status."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.connect()
    if start is not None:
        start.wait()
    body = json.dumps({"quantity": quantity, "userFingerprint": "buyer"})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/events/{event}/tickets", body, headers)
    with connection.getresponse() as future:
        status = future.status
    connection.close()
    return status


def _last_ticket_locked(dsn: str, database: psycopg.Connection) -> Iterator[str]:
    """Yield the response while another transaction locks the last ticket and then rolls back."""
    for contender, lock in (
        ("ticket rows", "select from ticket_rows where event_id = %s for update"),
        ("holdfast", "select from events where id = %s for update"),
    ):
        (event,) = make_events(database, 1, 1)
        database.execute(INSERT_ROWS, [event, 1])
        with serving(contender, dsn, {}) as (url, _), ThreadPoolExecutor(1) as pool:
            with psycopg.connect(dsn) as other:
                other.execute(lock.encode(), [event])
                future = pool.submit(_reserve, url, event, 1)
                time.sleep(0.5)
                other.rollback()
            yield {201: "201: reserved", 409: "409: sold out"}[future.result()]
