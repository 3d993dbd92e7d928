"""A queue: requests are written to a table, and a worker takes them from it and answers later.

The worker takes up to 500 at once and decides them under the event's lock, in the order in which
they came. The server writes a request, commits, and then either answers 202 at once, to be asked
again (``TOLD_LATER``), or waits until the answer stands in the table. It keeps no ledger, expires
nothing and knows no keys. Run with ``uvicorn tests.benchmarks.queued:app``, which starts the
worker; ``DATABASE_URL`` names the database.

Never oversells: the worker counts what is left in the row that it has locked, and the answer, the
tickets and the count are one transaction. What was written to the queue outlives a crash.
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
from service.embedded.parent import ending_with
from service.web.responses import TicketResponse

BATCH, CONNECTIONS, LOOK_SECONDS = 500, 16, 0.002
"""LOOK_SECONDS: how often the worker looks for requests, and the server for answers."""

CREATE_QUEUE = """
drop table if exists requests;
create table requests (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    quantity integer not null,
    user_fingerprint text not null,
    asked_at timestamptz not null default clock_timestamp(),
    answered_at timestamptz,
    ticket_ids text[]
);
create index requests_waiting on requests (id) where answered_at is null;
"""
ASK = """
insert into requests (event_id, quantity, user_fingerprint) values (%s, %s, %s) returning id
"""
FIND_ANSWERS = """
select id, answered_at, ticket_ids
from requests
where id = any(%s::bigint[]) and answered_at is not null
"""
TAKE = """
select id, event_id, quantity, user_fingerprint
from requests where answered_at is null order by id limit %s for update skip locked
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
ANSWER = """
update requests
set
    answered_at = clock_timestamp(),
    ticket_ids = case when answer <> '' then string_to_array(answer, ' ') else '{}' end
from unnest(%s::bigint[], %s::text[]) as answers (request, answer) where id = request
"""

encode = msgspec.json.Encoder().encode


def work(dsn: str) -> None:
    """Take requests and answer them, batch after batch."""
    with psycopg.connect(dsn, autocommit=True, context=ADAPTERS, prepare_threshold=0) as database:
        print("working", flush=True)
        while True:
            if not work_once(database):
                time.sleep(LOOK_SECONDS)


def work_once(database: psycopg.Connection) -> int:
    """Answer one batch in one transaction and return how many requests it had."""
    with database.transaction():
        requests = database.execute(TAKE, [BATCH]).fetchall()
        if not requests:
            return 0
        events = list({str(event) for _, event, _, _ in requests})
        left: dict[str, int] = dict(database.execute(LOCK_EVENTS, [events]).fetchall())
        before, granted = dict(left), set()
        for request, event, quantity, _ in requests:
            if left.get(event, 0) >= quantity:
                left[event] -= quantity
                granted.add(request)
        ours = [one for one in requests if one[0] in granted]
        each = [(event, user) for _, event, quantity, user in ours for _ in range(quantity)]
        with database.pipeline():
            inserted = database.execute(
                INSERT_TICKETS, [[event for event, _ in each], [user for _, user in each]]
            )
            taken = [before[event] - left[event] for event in left]
            database.execute(ADD_ALLOCATED, [list(left), taken])
        ids = iter([id_ for (id_,) in inserted.fetchall()])
        answers = [
            " ".join(next(ids) for _ in range(quantity)) if request in granted else ""
            for request, _, quantity, _ in requests
        ]
        database.execute(ANSWER, [[request for request, *_ in requests], answers])
    return len(requests)


def start_worker() -> subprocess.Popen[bytes]:
    """Start the one worker, which ends with us, and wait until it works."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.queued"],
        stdout=subprocess.PIPE,
        preexec_fn=ending_with(os.getpid(), signal.SIGKILL),
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    return worker


async def reserve(request: Request) -> Response:
    """Write the request down; then answer that it was, or what became of it."""
    body = msgspec.json.decode(await request.body())
    event, owner = request.path_params["id"], body["userFingerprint"]
    async with app.state.pool.connection() as connection:
        asked = await connection.execute(ASK, [event, body["quantity"], owner])
        (id_,) = await asked.fetchone()
    if "TOLD_LATER" in os.environ:
        return Response(encode({"id": id_}), 202, media_type="application/json")
    answer = app.state.waiting[id_] = asyncio.get_running_loop().create_future()
    at, tickets = await answer
    if not tickets:
        return Response(encode({"code": "TICKETS_SOLD_OUT"}), 409, media_type="application/json")
    told = [TicketResponse(one, event, tickets[0], "reserved", at, at, at, owner) for one in tickets]
    return Response(encode(told), 201, media_type="application/json")


async def look(app: Starlette) -> None:
    """Hand the answers over that stand in the table, again and again."""
    waiting: dict[int, asyncio.Future[tuple[datetime, Any]]] = app.state.waiting
    async with app.state.pool.connection() as connection:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if waiting:
                found = await connection.execute(FIND_ANSWERS, [list(waiting)])
                for id_, at, tickets in await found.fetchall():
                    waiting.pop(id_).set_result((at, tickets))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pool, start the worker and look for answers; end them all."""
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
        looking = asyncio.create_task(look(app))
        yield
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    worker.kill()
    worker.wait()


app = Starlette(
    routes=[Route("/events/{id}/tickets", reserve, methods=["POST"])], lifespan=lifespan
)

if __name__ == "__main__":
    work(os.environ["DATABASE_URL"])
