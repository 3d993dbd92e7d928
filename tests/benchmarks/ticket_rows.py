"""A row for each ticket, also available ones, and SKIP LOCKED to take unlocked rows.

Each request is one statement, all or nothing. With ``BATCHED`` the server collects requests like
the service and serves them in one transaction. It has no ledger, expiry or keys. Run it with
``uvicorn tests.benchmarks.ticket_rows:app``; ``DATABASE_URL`` names the database.

It never oversells: a row is one ticket, and is available in the version that was locked. But it
responds "sold out" when the last tickets are only locked, and so may leave some unsold.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.database.connections import ADAPTERS
from service.rows import Uuid
from service.web.responses import TicketResponse

BATCH, CONNECTIONS = 500, 16

CREATE_ROWS = """
drop table if exists ticket_rows;
create table ticket_rows (
    id bigint generated always as identity primary key,
    event_id uuid not null references events,
    user_fingerprint text,
    reserved_at timestamptz,
    expires_at timestamptz
);
create index ticket_rows_available on ticket_rows (event_id) where user_fingerprint is null;
create index ticket_rows_of_user on ticket_rows (user_fingerprint)
where user_fingerprint is not null;
create index ticket_rows_due on ticket_rows (expires_at) where expires_at is not null;
"""
INSERT_ROWS = """
insert into ticket_rows (event_id) select %s::uuid from generate_series(1, %s)
"""
RESERVE = """
with taken as (
    select id from ticket_rows
    where event_id = %s and user_fingerprint is null
    limit %s for update skip locked
)

update ticket_rows as ticket
set user_fingerprint = %s, reserved_at = now(), expires_at = now() + interval '15 min'
from taken
where ticket.id = taken.id and (select count(*) from taken) = %s
returning ticket.id, ticket.reserved_at, ticket.expires_at
"""
LOCK_AVAILABLE = """
select id from ticket_rows
where event_id = %s and user_fingerprint is null
limit %s for update skip locked
"""
ASSIGN = """
update ticket_rows as ticket
set user_fingerprint = given.owner, reserved_at = now(), expires_at = now() + interval '15 min'
from unnest(%s::bigint[], %s::text[]) as given (id, owner)
where ticket.id = given.id
returning ticket.id, ticket.reserved_at, ticket.expires_at
"""

encode = msgspec.json.Encoder().encode


def make_rows(database: psycopg.Connection, event: str, rows: int) -> float:
    """Create a row for each ticket and return the duration in seconds."""
    database.execute(CREATE_ROWS)
    start = time.monotonic()
    database.execute(INSERT_ROWS, [event, rows])
    seconds = time.monotonic() - start
    database.execute("vacuum analyze ticket_rows")
    return seconds


Row = tuple[int, datetime, datetime]
# Event, quantity, owner, and the future of the rows.
BatchedReservation = tuple[str, int, str, "asyncio.Future[list[Row]]"]


async def reserve(request: Request) -> Response:
    """Reserve tickets, all or none."""
    body = msgspec.json.decode(await request.body())
    event, quantity, owner = request.path_params["id"], body["quantity"], body["userFingerprint"]
    if "BATCHED" in os.environ:
        rows = await reserve_in_batch(request.app, (event, quantity, owner))
    else:
        async with request.app.state.pool.connection() as connection:
            cursor = await connection.execute(RESERVE, (event, quantity, owner, quantity))
            rows = await cursor.fetchall()
    if not rows:
        return Response(encode({"code": "TICKETS_SOLD_OUT"}), 409, media_type="application/json")
    ids = [Uuid(f"00000000-0000-7000-8000-{id_:012x}") for id_, _, _ in rows]
    tickets = [
        TicketResponse(id_, event, ids[0], "reserved", ends, made, made, owner)
        for id_, (_, made, ends) in zip(ids, rows, strict=True)
    ]
    return Response(encode(tickets), 201, media_type="application/json")


async def reserve_in_batch(app: Starlette, request: tuple[str, int, str]) -> list[Row]:
    """Add a request to the queue and return its rows after the batch."""
    future: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
    app.state.queue.append((*request, future))
    if app.state.runner is None:
        app.state.runner = asyncio.create_task(drain(app))
    return await future


async def drain(app: Starlette) -> None:
    """Carry out batch after batch, each for one event, until the queue is empty."""
    async with app.state.pool.connection() as connection:
        while queue := app.state.queue:
            event = queue[0][0]
            batch = [request for request in queue[:BATCH] if request[0] == event]
            others = [request for request in queue[:BATCH] if request[0] != event]
            app.state.queue = others + queue[BATCH:]
            results = await carry_out(connection, event, batch)
            for (*_, future), rows in zip(batch, results, strict=True):
                future.set_result(rows)
    app.state.runner = None


async def carry_out(
    connection: AsyncConnection, event: str, batch: list[BatchedReservation]
) -> list[list[Row]]:
    """Reserve for a batch in one transaction: in order, each request all or nothing."""
    async with connection.transaction():
        cursor = await connection.execute(
            LOCK_AVAILABLE, (event, sum(quantity for _, quantity, _, _ in batch))
        )
        available = [id_ for (id_,) in await cursor.fetchall()]
        granted: list[list[int]] = []
        for _, quantity, _, _ in batch:
            request_ids = available[:quantity] if len(available) >= quantity else []
            del available[: len(request_ids)]
            granted.append(request_ids)
        owners = [owner for (_, _, owner, _), ids in zip(batch, granted, strict=True) for _ in ids]
        ids = [id_ for ids in granted for id_ in ids]
        rows = await (await connection.execute(ASSIGN, (ids, owners))).fetchall() if ids else []
    by_id: dict[int, Any] = {row[0]: row for row in rows}
    return [[by_id[id_] for id_ in ids] for ids in granted]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pool and close it."""
    app.state.queue, app.state.runner = [], None
    async with AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        kwargs={
            "context": ADAPTERS,
            "prepare_threshold": 0,
            "autocommit": True,
            # Without these the planner, whose statistics say that all rows are available,
            # would scan past the rows sold since.
            "options": "-c TimeZone=UTC -c enable_seqscan=off -c enable_bitmapscan=off",
        },
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
    ) as app.state.pool:
        yield


app = Starlette(
    routes=[Route("/events/{id}/tickets", reserve, methods=["POST"])], lifespan=lifespan
)
