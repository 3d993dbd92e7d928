"""CORS: which origins may call the service from a browser."""

from collections.abc import Collection, Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.refusals import BAD_REQUEST, Refusal
from service.web.endpoints import Endpoint
from service.web.responses import refuse

# Request headers that every route accepts, in addition to those that the routes declare.
REQUEST_HEADERS = ("Authorization", "X-Request-Id")

# Response headers that a script may read. A page needs Date to compute how long a hold lasts.
EXPOSED_HEADERS = (
    "Date",
    "ETag",
    "Location",
    "Idempotency-Replayed",
    "Retry-After",
    "X-Request-Id",
)


class Cors(CORSMiddleware):
    """Starlette's CORS middleware, but preflights are refused in the service's own format."""

    def __init__(
        self, app: ASGIApp, origins: Collection[str], endpoints: Iterable[tuple[str, Endpoint]]
    ) -> None:
        methods_and_endpoints = list(endpoints)
        route_headers = {
            header.name for _, endpoint in methods_and_endpoints for header in endpoint.headers
        }
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=sorted({method for method, _ in methods_and_endpoints} | {"HEAD"}),
            allow_headers=[*REQUEST_HEADERS, *route_headers],
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a preflight request, and add headers to the responses to others."""
        if scope["type"] == "http" and scope["state"]["service"].hosts.check(scope["headers"]):
            # The host is not allowed. The application refuses the request, even a preflight.
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Respond to a CORS preflight request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        reason = bytes(response.body).decode()
        refusal_response = refuse(Refusal(BAD_REQUEST.status, BAD_REQUEST.code, reason))
        refusal_response.headers["Vary"] = response.headers["Vary"]
        return refusal_response
