"""A queue: the server writes requests to a table, and a worker processes them later.

The worker takes up to 500 requests at a time, in order, and decides them under the locks of their
events. The server commits a request, and then either responds 202 at once (with
``RESPONDS_AT_ONCE``) or waits until the outcome is in the table. It has no ledger, expiry or keys.
Run it with ``uvicorn tests.benchmarks.queued:app``, which starts the worker; ``DATABASE_URL``
names the database.

It never oversells: the worker reads the available tickets from the locked row of the event, and
commits outcome, tickets and count in one transaction. The queue survives a crash.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.database.connections import ADAPTERS
from service.embedded.parent import stop_with_parent
from service.web.responses import TicketResponse

# POLL_SECONDS: how often the worker polls for requests, and the server for outcomes.
BATCH, CONNECTIONS, POLL_SECONDS = 500, 16, 0.002

CREATE_QUEUE = """
drop table if exists requests;
create table requests (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    quantity integer not null,
    user_fingerprint text not null,
    received_at timestamptz not null default clock_timestamp(),
    decided_at timestamptz,
    ticket_ids text[]
);
create index requests_waiting on requests (id) where decided_at is null;
"""
INSERT_REQUEST = """
insert into requests (event_id, quantity, user_fingerprint) values (%s, %s, %s) returning id
"""
FIND_OUTCOMES = """
select id, decided_at, ticket_ids
from requests
where id = any(%s::bigint[]) and decided_at is not null
"""
TAKE = """
select id, event_id, quantity, user_fingerprint
from requests where decided_at is null order by id limit %s for update skip locked
"""
LOCK_EVENTS = """
select id, total_tickets - allocated_tickets
from events where id = any(%s::uuid[]) order by id for update
"""
INSERT_TICKETS = """
insert into ticket_allocations (event_id, user_fingerprint, expires_at)
select event_id, user_fingerprint, clock_timestamp() + interval '15 min'
from unnest(%s::uuid[], %s::text[]) with ordinality as granted (event_id, user_fingerprint, n)
order by n
returning id
"""
ADD_ALLOCATED = """
update events set allocated_tickets = allocated_tickets + tickets
from unnest(%s::uuid[], %s::integer[]) as granted (event_id, tickets) where id = event_id
"""
RECORD_OUTCOMES = """
update requests
set
    decided_at = clock_timestamp(),
    ticket_ids = case when tickets <> '' then string_to_array(tickets, ' ') else '{}' end
from unnest(%s::bigint[], %s::text[]) as outcomes (request, tickets) where id = request
"""

encode = msgspec.json.Encoder().encode


def run_worker(dsn: str) -> None:
    """Process requests, batch after batch, until the process is killed."""
    with psycopg.connect(dsn, autocommit=True, context=ADAPTERS, prepare_threshold=0) as database:
        print("working", flush=True)
        while True:
            if not process_batch(database):
                time.sleep(POLL_SECONDS)


def process_batch(database: psycopg.Connection) -> int:
    """Process one batch in one transaction, and return the number of its requests."""
    with database.transaction():
        requests = database.execute(TAKE, [BATCH]).fetchall()
        if not requests:
            return 0
        events = list({str(event) for _, event, _, _ in requests})
        available: dict[str, int] = dict(database.execute(LOCK_EVENTS, [events]).fetchall())
        before, granted = dict(available), set()
        for request, event, quantity, _ in requests:
            if available.get(event, 0) >= quantity:
                available[event] -= quantity
                granted.add(request)
        granted_requests = [request for request in requests if request[0] in granted]
        buyers = [
            (event, user) for _, event, quantity, user in granted_requests for _ in range(quantity)
        ]
        with database.pipeline():
            inserted = database.execute(
                INSERT_TICKETS, [[event for event, _ in buyers], [user for _, user in buyers]]
            )
            quantities = [before[event] - available[event] for event in available]
            database.execute(ADD_ALLOCATED, [list(available), quantities])
        ids = iter([id_ for (id_,) in inserted.fetchall()])
        tickets_by_request = [
            " ".join(next(ids) for _ in range(quantity)) if request in granted else ""
            for request, _, quantity, _ in requests
        ]
        database.execute(
            RECORD_OUTCOMES, [[request for request, *_ in requests], tickets_by_request]
        )
    return len(requests)


def start_worker() -> subprocess.Popen[bytes]:
    """Start the worker, which ends with this process, and wait until it is ready."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.queued"],
        stdout=subprocess.PIPE,
        preexec_fn=stop_with_parent(os.getpid(), signal.SIGKILL),
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    return worker


async def reserve(request: Request) -> Response:
    """Insert the request, and respond with 202 or with its outcome."""
    body = msgspec.json.decode(await request.body())
    event, owner = request.path_params["id"], body["userFingerprint"]
    async with app.state.pool.connection() as connection:
        cursor = await connection.execute(INSERT_REQUEST, [event, body["quantity"], owner])
        (id_,) = await cursor.fetchone()
    if "RESPONDS_AT_ONCE" in os.environ:
        return Response(encode({"id": id_}), 202, media_type="application/json")
    outcome = app.state.waiting[id_] = asyncio.get_running_loop().create_future()
    at, tickets = await outcome
    if not tickets:
        return Response(encode({"code": "TICKETS_SOLD_OUT"}), 409, media_type="application/json")
    responses = [
        TicketResponse(ticket, event, tickets[0], "reserved", at, at, at, owner)
        for ticket in tickets
    ]
    return Response(encode(responses), 201, media_type="application/json")


async def poll_outcomes(app: Starlette) -> None:
    """Poll the table for outcomes, and pass them to the waiting requests."""
    waiting: dict[int, asyncio.Future[tuple[datetime, Any]]] = app.state.waiting
    async with app.state.pool.connection() as connection:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if waiting:
                rows = await connection.execute(FIND_OUTCOMES, [list(waiting)])
                for id_, at, tickets in await rows.fetchall():
                    waiting.pop(id_).set_result((at, tickets))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pool, start the worker and poll for outcomes; stop all three at the end."""
    worker = start_worker()
    app.state.waiting = {}
    async with AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        kwargs={
            "context": ADAPTERS,
            "prepare_threshold": 0,
            "autocommit": True,
            "options": "-c TimeZone=UTC",
        },
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
    ) as app.state.pool:
        polling = asyncio.create_task(poll_outcomes(app))
        yield
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
    worker.kill()
    worker.wait()


app = Starlette(
    routes=[Route("/events/{id}/tickets", reserve, methods=["POST"])], lifespan=lifespan
)

if __name__ == "__main__":
    run_worker(os.environ["DATABASE_URL"])
