"""A row for each ticket, free ones too, and SKIP LOCKED to take some that nobody has.

One statement for a request, all or nothing. With ``BATCHED`` it gathers requests as the service
does and takes for all of them in one transaction. It expires nothing, keeps no ledger and knows no
keys. Run with ``uvicorn tests.benchmarks.ticket_rows:app``; ``DATABASE_URL`` names the database.

Never oversells: a row is one ticket, and is free in the version that was locked. But it says "sold
out" of a ticket that is only locked, and so may leave some unsold.
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
create index ticket_rows_free on ticket_rows (event_id) where user_fingerprint is null;
create index ticket_rows_of_user on ticket_rows (user_fingerprint)
where user_fingerprint is not null;
create index ticket_rows_due on ticket_rows (expires_at) where expires_at is not null;
"""
FILL = """
insert into ticket_rows (event_id) select %s::uuid from generate_series(1, %s)
"""
TAKE = """
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
LOCK_FREE = """
select id from ticket_rows
where event_id = %s and user_fingerprint is null
limit %s for update skip locked
"""
GIVE = """
update ticket_rows as ticket
set user_fingerprint = given.owner, reserved_at = now(), expires_at = now() + interval '15 min'
from unnest(%s::bigint[], %s::text[]) as given (id, owner)
where ticket.id = given.id
returning ticket.id, ticket.reserved_at, ticket.expires_at
"""

encode = msgspec.json.Encoder().encode


def make_rows(database: psycopg.Connection, event: str, rows: int) -> float:
    """Make a row for each ticket and return the seconds that it took."""
    database.execute(CREATE_ROWS)
    begun = time.monotonic()
    database.execute(FILL, [event, rows])
    took = time.monotonic() - begun
    database.execute("vacuum analyze ticket_rows")
    return took


Row = tuple[int, datetime, datetime]
Asked = tuple[str, int, str, "asyncio.Future[list[Row]]"]
"""Event, quantity, owner, and who waits for the rows."""


async def reserve(request: Request) -> Response:
    """Reserve tickets, all or none."""
    body = msgspec.json.decode(await request.body())
    event, quantity, owner = request.path_params["id"], body["quantity"], body["userFingerprint"]
    if "BATCHED" in os.environ:
        rows = await take_together(request.app, (event, quantity, owner))
    else:
        async with request.app.state.pool.connection() as connection:
            taken = await connection.execute(TAKE, (event, quantity, owner, quantity))
            rows = await taken.fetchall()
    if not rows:
        return Response(encode({"code": "TICKETS_SOLD_OUT"}), 409, media_type="application/json")
    ids = [Uuid(f"00000000-0000-7000-8000-{id_:012x}") for id_, _, _ in rows]
    tickets = [
        TicketResponse(id_, event, ids[0], "reserved", ends, made, made, owner)
        for id_, (_, made, ends) in zip(ids, rows, strict=True)
    ]
    return Response(encode(tickets), 201, media_type="application/json")


async def take_together(app: Starlette, asked: tuple[str, int, str]) -> list[Row]:
    """Line up and wait for what the batch has brought."""
    future: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
    app.state.line.append((*asked, future))
    if app.state.runner is None:
        app.state.runner = asyncio.create_task(drain(app))
    return await future


async def drain(app: Starlette) -> None:
    """Carry out batch after batch, each of one event, while anybody waits."""
    async with app.state.pool.connection() as connection:
        while line := app.state.line:
            event = line[0][0]
            batch = [one for one in line[:BATCH] if one[0] == event]
            app.state.line = [one for one in line[:BATCH] if one[0] != event] + line[BATCH:]
            for one, rows in zip(batch, await carry_out(connection, event, batch), strict=True):
                one[3].set_result(rows)
    app.state.runner = None


async def carry_out(connection: AsyncConnection, event: str, batch: list[Asked]) -> list[list[Row]]:
    """Take for a batch in one transaction: first come, first served, each all or nothing."""
    async with connection.transaction():
        found = await connection.execute(LOCK_FREE, (event, sum(one[1] for one in batch)))
        free = [id_ for (id_,) in await found.fetchall()]
        given: list[list[int]] = []
        for _, quantity, _, _ in batch:
            mine = free[:quantity] if len(free) >= quantity else []
            del free[: len(mine)]
            given.append(mine)
        owners = [one[2] for one, ids in zip(batch, given, strict=True) for _ in ids]
        ids = [id_ for ids in given for id_ in ids]
        rows = await (await connection.execute(GIVE, (ids, owners))).fetchall() if ids else []
    by_id: dict[int, Any] = {row[0]: row for row in rows}
    return [[by_id[id_] for id_ in ids] for ids in given]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pool and close it."""
    app.state.line, app.state.runner = [], None
    async with AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        kwargs={
            "context": ADAPTERS,
            "prepare_threshold": 0,
            "autocommit": True,
            # Without it the planner, for whom all were free, reads past what is sold since.
            "options": "-c TimeZone=UTC -c enable_seqscan=off -c enable_bitmapscan=off",
        },
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
    ) as app.state.pool:
        yield


app = Starlette(
    routes=[Route("/events/{id}/tickets", reserve, methods=["POST"])], lifespan=lifespan
)
