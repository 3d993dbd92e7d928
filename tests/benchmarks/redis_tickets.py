"""Tickets in Redis: a counter for each event and a hash for each ticket, changed by a script.

The obvious fast implementation, written well: one connection with pipelined commands, and one
script, so that check and reservation are atomic. It has no ledger, expiry or keys. Run it with
``uvicorn tests.benchmarks.redis_tickets:app``; ``REDIS_SOCKET`` names the socket.

It never oversells while there is one Redis that loses nothing: a replica that takes over, or a
file without the last second, sells the tickets of that second again.
"""

import asyncio
import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.rows import Uuid
from service.web.responses import TicketResponse

HOLD_SECONDS = 900
# Returns 1 if the tickets are reserved. The ids follow the owner and the end of the hold.
RESERVE = """
local event, owner, ends = KEYS[1], ARGV[1], ARGV[2]
local wanted = #ARGV - 2
local available = tonumber(redis.call('hget', 'event:' .. event, 'available') or 0)
if available < wanted then return 0 end
redis.call('hincrby', 'event:' .. event, 'available', -wanted)
for n = 3, #ARGV do
    redis.call('hset', 'ticket:' .. ARGV[n],
        'event', event, 'owner', owner, 'status', 'reserved', 'ends', ends)
    redis.call('rpush', 'tickets:' .. event, ARGV[n])
end
return 1
"""
SHA = hashlib.sha1(RESERVE.encode(), usedforsecurity=False).hexdigest()

encode = msgspec.json.Encoder().encode


class Redis(asyncio.Protocol):
    """A connection for pipelined commands that return an integer."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's, which is not derived

    async def call(self, *words: str) -> int:
        """Send a command and return its result.

        Raises:
            ConnectionError: Redis sent an error or closed the connection.
        """
        if self._transport.is_closing():
            raise ConnectionError("the connection to Redis is closed")
        response: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(response)
        parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        self._transport.write(f"*{len(words)}\r\n{parts}".encode())
        return await response

    def data_received(self, data: bytes) -> None:
        """Parse the responses, one per line."""
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        for line in lines:
            response = self._waiting.popleft()
            if line.startswith(b":"):
                response.set_result(int(line[1:]))
            else:
                response.set_exception(ConnectionError(line.decode()))

    def connection_lost(self, _: Exception | None) -> None:
        """Fail all waiting commands: their outcome is unknown."""
        while self._waiting:
            self._waiting.popleft().set_exception(
                ConnectionError("the connection to Redis is closed")
            )


async def reserve(request: Request) -> Response:
    """Reserve tickets."""
    body = msgspec.json.decode(await request.body())
    event, owner, quantity = request.path_params["id"], body["userFingerprint"], body["quantity"]
    ids = [str(uuid4()) for _ in range(quantity)]
    now = time.time()
    ends = now + HOLD_SECONDS
    try:
        reserved = await app.state.redis.call(
            "EVALSHA", SHA, "1", event, owner, f"{ends:.6f}", *ids
        )
    except ConnectionError:
        return Response(encode({"code": "OUTCOME_UNKNOWN"}), 503, media_type="application/json")
    if not reserved:
        return Response(encode({"code": "TICKETS_SOLD_OUT"}), 409, media_type="application/json")
    made, over = (datetime.fromtimestamp(seconds, UTC) for seconds in (now, ends))
    reservation = Uuid(ids[0])
    tickets = [
        TicketResponse(Uuid(id_), event, reservation, "reserved", over, made, made, owner)
        for id_ in ids
    ]
    return Response(encode(tickets), 201, media_type="application/json")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the connection and load the script."""
    loop = asyncio.get_running_loop()
    _, app.state.redis = await loop.create_unix_connection(Redis, os.environ["REDIS_SOCKET"])
    await app.state.redis.call("EVAL", RESERVE, "1", "none", "", "", "")
    yield


app = Starlette(
    routes=[Route("/events/{id}/tickets", reserve, methods=["POST"])], lifespan=lifespan
)
