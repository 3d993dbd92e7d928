"""No database: the same server, which reads the same requests and answers as much of nothing.

What HTTP alone can do on a machine, for the service to be measured against.
"""

from datetime import UTC, datetime

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.rows import Uuid
from service.web.responses import EventResponse, TicketResponse

encode = msgspec.json.Encoder().encode
ID = Uuid("018f0000-0000-7000-8000-000000000001")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def reserve(request: Request) -> Response:
    """Answer with a ticket that is nobody's."""
    owner = msgspec.json.decode(await request.body())["userFingerprint"]
    ticket = TicketResponse(ID, request.path_params["id"], ID, "reserved", NOW, NOW, NOW, owner)
    return Response(encode([ticket]), 201, media_type="application/json")


async def find_event(request: Request) -> Response:
    """Answer with an event that does not exist."""
    event = EventResponse(
        request.path_params["id"], "Opening night", NOW, 100, 0, 100, 0, 0, 1, NOW, NOW
    )
    return Response(encode(event), headers={"ETag": event.etag}, media_type="application/json")


app = Starlette(
    routes=[
        Route("/events/{id}/tickets", reserve, methods=["POST"]),
        Route("/events/{id}", find_event),
    ]
)
