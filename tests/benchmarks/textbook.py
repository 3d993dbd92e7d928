"""The textbook: one transaction for each request, on the same schema and with the same libraries.

Begin, select for update, insert or update, commit: the obvious implementation, written well, with
prepared statements, a pool and no superfluous query. It has no ledger, expiry or keys. Run it with
``uvicorn tests.benchmarks.textbook:app``; ``DATABASE_URL`` names the database.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.database.connections import ADAPTERS
from service.rows import Event, TicketAllocation
from service.web.responses import EventResponse, TicketResponse

CONNECTIONS = int(os.environ.get("TEXTBOOK_CONNECTIONS", "16"))

TICKET = (
    "id, event_id, user_fingerprint, status, expires_at, created_at, updated_at, "
    "reservation_id, position"
)
LOCK_EVENT = "select total_tickets - allocated_tickets from events where id = %s for update"
INSERT_TICKET = f"""
insert into ticket_allocations (event_id, user_fingerprint, expires_at)
values (%s, %s, now() + interval '15 min') returning {TICKET}
"""
ADD_ALLOCATED = "update events set allocated_tickets = allocated_tickets + %s where id = %s"
ADD_PURCHASED = "update events set purchased_tickets = purchased_tickets + 1 where id = %s"
FIND_EVENT_OF_TICKET = "select event_id from ticket_allocations where id = %s"
LOCK_TICKET = """
select event_id, user_fingerprint, status = 'reserved' and expires_at > now()
from ticket_allocations where id = %s for update
"""
PAY_TICKET = f"""
update ticket_allocations set status = 'purchased', expires_at = null
where id = %s returning {TICKET}
"""
CANCEL_TICKET = f"""
update ticket_allocations set status = 'user_cancelled' where id = %s returning {TICKET}
"""
FIND_EVENT = """
select id, name, date, total_tickets, allocated_tickets, created_at, updated_at,
    purchased_tickets, version, sale_opens_at, sale_closes_at, hold_seconds, max_hold_seconds,
    max_tickets_per_person, revision, 'open'
from events where id = %s
"""

encode = msgspec.json.Encoder().encode


def respond(body: object, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(encode(body), status, media_type="application/json")


async def reserve(request: Request) -> Response:
    """Reserve one ticket."""
    event_id, body = request.path_params["id"], msgspec.json.decode(await request.body())
    async with request.app.state.pool.connection() as connection, connection.transaction():
        (available,) = await fetch_row(connection, LOCK_EVENT, event_id)
        if available < body["quantity"]:
            return respond({"code": "TICKETS_SOLD_OUT"}, 409)
        row = await fetch_row(connection, INSERT_TICKET, event_id, body["userFingerprint"])
        await connection.execute(ADD_ALLOCATED, (1, event_id))
    return respond([TicketResponse.of(TicketAllocation(*row), body["userFingerprint"])], 201)


async def pay(request: Request) -> Response:
    """Pay for a ticket."""
    owner = msgspec.json.decode(await request.body())["userFingerprint"]
    return await change_ticket(
        request, owner, PAY_TICKET, lambda c, e: c.execute(ADD_PURCHASED, (e,))
    )


async def cancel(request: Request) -> Response:
    """Cancel a ticket."""
    owner = request.headers["x-user-fingerprint"]
    return await change_ticket(
        request, owner, CANCEL_TICKET, lambda c, e: c.execute(ADD_ALLOCATED, (-1, e))
    )


async def change_ticket(
    request: Request,
    owner: str,
    statement: str,
    count: Callable[[AsyncConnection, Any], Awaitable[object]],
) -> Response:
    """Lock event and ticket, in this order, and change the ticket."""
    ticket_id = request.path_params["id"]
    async with request.app.state.pool.connection() as connection, connection.transaction():
        (event_id,) = await fetch_row(connection, FIND_EVENT_OF_TICKET, ticket_id)
        await fetch_row(connection, LOCK_EVENT, event_id)
        _, fingerprint, is_held = await fetch_row(connection, LOCK_TICKET, ticket_id)
        if fingerprint != owner or not is_held:
            return respond({"code": "REFUSED"}, 409)
        row = await fetch_row(connection, statement, ticket_id)
        await count(connection, event_id)
    return respond(TicketResponse.of(TicketAllocation(*row), owner))


async def find_event(request: Request) -> Response:
    """Find an event."""
    async with request.app.state.pool.connection() as connection:
        row = await fetch_row(connection, FIND_EVENT, request.path_params["id"])
    return respond(EventResponse.of(Event(*row)))


async def fetch_row(connection: AsyncConnection, statement: str, *parameters: object) -> Any:
    """Run a statement and return its row."""
    return await (await connection.execute(statement.encode(), parameters)).fetchone()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pool and close it."""
    async with AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        kwargs={"context": ADAPTERS, "prepare_threshold": 0, "options": "-c TimeZone=UTC"},
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
    ) as app.state.pool:
        yield


app = Starlette(
    routes=[
        Route("/events/{id}/tickets", reserve, methods=["POST"]),
        Route("/events/tickets/{id}/payment", pay, methods=["POST"]),
        Route("/events/tickets/{id}/payment", cancel, methods=["DELETE"]),
        Route("/events/{id}", find_event),
    ],
    lifespan=lifespan,
)
