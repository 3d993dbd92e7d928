"""Docs: the service's own description, for programs and for people."""

from starlette.responses import Response

from service.calls import Call


async def show_openapi(call: Call) -> Response:
    """Describe every route in OpenAPI."""
    return Response(call.service.description, media_type="application/json")
