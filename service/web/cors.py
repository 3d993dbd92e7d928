"""CORS: which pages of other origins a browser lets call the service."""

from collections.abc import Collection, Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from service.refusals import BAD_REQUEST, Refusal
from service.web.endpoints import Endpoint
from service.web.responses import refuse

READ_HEADERS = ("Authorization", "X-Request-Id")
"""What a page may send beside the headers that the routes name."""

SHOWN_HEADERS = ("Date", "ETag", "Location", "Idempotency-Replayed", "Retry-After", "X-Request-Id")
"""What a page may read of an answer; by the date it knows how long a hold lasts."""


class Cors(CORSMiddleware):
    """Starlette's own, but a preflight that is refused has the shape of all refusals."""

    def __init__(
        self, app: ASGIApp, origins: Collection[str], endpoints: Iterable[tuple[str, Endpoint]]
    ) -> None:
        routes = list(endpoints)
        named = {header.name for _, endpoint in routes for header in endpoint.headers}
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=sorted({method for method, _ in routes} | {"HEAD"}),
            allow_headers=[*READ_HEADERS, *named],
            expose_headers=SHOWN_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer what a browser asks before it sends what it was asked to."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        said = bytes(response.body).decode()
        refused = refuse(Refusal(BAD_REQUEST.status, BAD_REQUEST.code, said))
        refused.headers["Vary"] = response.headers["Vary"]
        return refused
