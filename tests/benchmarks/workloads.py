"""The workloads of the benchmark."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.load import Request

PLENTY = 1_000_000_000
# More than any contender pays for during one load.
HOLDS = 60_000


@dataclass(frozen=True)
class Workload:
    """The requests to the contenders, and the statuses of the responses that count."""

    name: str
    clients: int
    requests: Callable[[psycopg.Connection], list[Request]]
    statuses: tuple[int, ...]
    contenders: tuple[str, ...] = ("holdfast", "textbook")


def make_events(database: psycopg.Connection, count: int, tickets: int = PLENTY) -> list[str]:
    rows = database.execute(
        "insert into events (name, date, total_tickets) "
        "select 'event ' || gen_random_uuid(), '2030-01-01', %s from generate_series(1, %s) "
        "returning id",
        [tickets, count],
    ).fetchall()
    return [str(id_) for (id_,) in rows]


def reservations(events: Sequence[str]) -> list[Request]:
    body = json.dumps({"quantity": 1, "userFingerprint": "buyer-%n"})
    return [Request("POST", f"/events/{event}/tickets", body) for event in events]


def _holds(database: psycopg.Connection) -> list[str]:
    (event,) = make_events(database, 1)
    rows = database.execute(
        "insert into ticket_allocations (event_id, user_fingerprint, expires_at) "
        "select %s, 'owner', now() + interval '1 hour' from generate_series(1, %s) returning id",
        [event, HOLDS],
    ).fetchall()
    database.execute("update events set allocated_tickets = %s where id = %s", [HOLDS, event])
    return [str(id_) for (id_,) in rows]


def _payments(database: psycopg.Connection) -> list[Request]:
    body = json.dumps({"userFingerprint": "owner"})
    paths = (f"/events/tickets/{id_}/payment" for id_ in _holds(database))
    return [Request("POST", path, body) for path in paths]


def _cancellations(database: psycopg.Connection) -> list[Request]:
    paths = (f"/events/tickets/{id_}/payment" for id_ in _holds(database))
    return [Request("DELETE", path, "owner") for path in paths]


def _reads(database: psycopg.Connection) -> list[Request]:
    return [Request("GET", f"/events/{event}") for event in make_events(database, 1)]


def _sold_out(database: psycopg.Connection) -> list[Request]:
    return reservations(make_events(database, 1, tickets=1))


ALL = tuple(CONTENDERS)
WORKLOADS = (
    Workload("one hot event", 100, lambda db: reservations(make_events(db, 1)), (201,), ALL),
    Workload("over 1,000 events", 100, lambda db: reservations(make_events(db, 1000)), (201,)),
    Workload("one client", 1, lambda db: reservations(make_events(db, 1)), (201,)),
    Workload("paying for holds", 100, _payments, (200,)),
    Workload("canceling holds", 100, _cancellations, (200,)),
    Workload("refusing when sold out", 100, _sold_out, (409,)),
    Workload("reading one event", 100, _reads, (200,), ALL),
)
