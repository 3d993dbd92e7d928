"""No database: the same server reads the same requests and sends responses of the same size.

It shows the rate that HTTP alone allows on a machine.
"""

from datetime import UTC, datetime

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.rows import SaleStatus, Uuid
from service.web.responses import EventResponse, TicketResponse

encode = msgspec.json.Encoder().encode
ID = Uuid("018f0000-0000-7000-8000-000000000001")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
# Revision, sale status and no terms of sale.
TERMS: tuple[int, SaleStatus, None, None, None, None, None]
TERMS = (1, "open", None, None, None, None, None)


async def reserve(request: Request) -> Response:
    """Respond with a made-up ticket."""
    owner = msgspec.json.decode(await request.body())["userFingerprint"]
    ticket = TicketResponse(ID, request.path_params["id"], ID, "reserved", NOW, NOW, NOW, owner)
    return Response(encode([ticket]), 201, media_type="application/json")


async def find_event(request: Request) -> Response:
    """Respond with a made-up event."""
    event = EventResponse(
        request.path_params["id"], "Opening night", NOW, 100, 0, 100, 0, 0, 0, 1, *TERMS, NOW, NOW
    )
    return Response(encode(event), headers={"ETag": event.etag}, media_type="application/json")


app = Starlette(
    routes=[
        Route("/events/{id}/tickets", reserve, methods=["POST"]),
        Route("/events/{id}", find_event),
    ]
)
