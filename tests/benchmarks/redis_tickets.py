"""Tickets in Redis: a counter for each event and a record for each ticket, changed by a script.

What one would write for speed, written well: one connection, on which commands are sent as they
come, and one script, so that nobody comes between the look at what is left and the taking. It
expires nothing, keeps no ledger and knows no keys. Run with ``uvicorn
tests.benchmarks.redis_tickets:app``; ``REDIS_SOCKET`` names the socket.

Never oversells while there is one Redis, and it forgets nothing: a copy that takes over, or a file
that lacks the last second, sells that second's tickets again.
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
TAKE = """
local event, owner, ends = KEYS[1], ARGV[1], ARGV[2]
local wanted = #ARGV - 2
local left = tonumber(redis.call('hget', 'event:' .. event, 'available') or 0)
if left < wanted then return 0 end
redis.call('hincrby', 'event:' .. event, 'available', -wanted)
for n = 3, #ARGV do
    redis.call('hset', 'ticket:' .. ARGV[n],
        'event', event, 'owner', owner, 'status', 'reserved', 'ends', ends)
    redis.call('rpush', 'tickets:' .. event, ARGV[n])
end
return 1
"""
"""Returns 1 if the tickets are taken, whose ids follow the owner and the end of the hold."""
SHA = hashlib.sha1(TAKE.encode(), usedforsecurity=False).hexdigest()

encode = msgspec.json.Encoder().encode


class Redis(asyncio.Protocol):
    """One connection, for commands that return an integer; they are answered in their order."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's, which is not derived

    async def ask(self, *words: str) -> int:
        """Send a command and return its answer.

        Raises:
            ConnectionError: no answer came, or an error.
        """
        if self._transport.is_closing():
            raise ConnectionError("Redis is gone")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        self._transport.write(f"*{len(words)}\r\n{parts}".encode())
        return await future

    def data_received(self, data: bytes) -> None:
        """Hand the answers over, a line each."""
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            future = self._waiting.popleft()
            if line.startswith(b":"):
                future.set_result(int(line[1:]))
            else:
                future.set_exception(ConnectionError(line.decode()))

    def connection_lost(self, _: Exception | None) -> None:
        """Tell all who wait that nobody knows."""
        while self._waiting:
            self._waiting.popleft().set_exception(ConnectionError("Redis is gone"))


async def reserve(request: Request) -> Response:
    """Reserve tickets."""
    body = msgspec.json.decode(await request.body())
    event, owner, quantity = request.path_params["id"], body["userFingerprint"], body["quantity"]
    ids = [str(uuid4()) for _ in range(quantity)]
    now = time.time()
    ends = now + HOLD_SECONDS
    try:
        taken = await app.state.redis.ask("EVALSHA", SHA, "1", event, owner, f"{ends:.6f}", *ids)
    except ConnectionError:
        return Response(encode({"code": "OUTCOME_UNKNOWN"}), 503, media_type="application/json")
    if not taken:
        return Response(encode({"code": "TICKETS_SOLD_OUT"}), 409, media_type="application/json")
    made, over = (datetime.fromtimestamp(one, UTC) for one in (now, ends))
    whole = Uuid(ids[0])
    tickets = [
        TicketResponse(Uuid(id_), event, whole, "reserved", over, made, made, owner) for id_ in ids
    ]
    return Response(encode(tickets), 201, media_type="application/json")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the connection and make the script known."""
    loop = asyncio.get_running_loop()
    _, app.state.redis = await loop.create_unix_connection(Redis, os.environ["REDIS_SOCKET"])
    await app.state.redis.ask("EVAL", TAKE, "1", "none", "", "", "")
    yield


app = Starlette(
    routes=[Route("/events/{id}/tickets", reserve, methods=["POST"])], lifespan=lifespan
)
