"""Resources: one ASGI application for each path, and the application that routes to them."""

import logging
import re
import time
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from prometheus_client import Histogram
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from service import metrics
from service.database.connections import UNAVAILABLE, loggable
from service.logs import REQUEST_ID, choose_request_id
from service.refusals import BUSY, INTERNAL_SERVER_ERROR, METHOD_NOT_ALLOWED, NOT_FOUND, Refusal
from service.rows import Uuid
from service.web.cors import Cors
from service.web.endpoints import Endpoint
from service.web.fields import parse_uuid
from service.web.responses import refuse

log = logging.getLogger(__name__)

# A refusal is true for its moment only. Without this header a cache may store a 404, 405 or 410.
NO_STORE = (b"cache-control", b"no-store")


class Resource:
    """A path and its endpoints, by method.

    Every error becomes a refusal that reveals nothing about the inside of the service.
    """

    def __init__(self, path: str, endpoints: dict[str, Endpoint]) -> None:
        self._path = path
        self._endpoints = endpoints
        if "GET" in endpoints and not endpoints["GET"].streams:
            self._endpoints = {**endpoints, "HEAD": endpoints["GET"]}
        self._caching_headers = {
            method: [
                (name.lower().encode(), value.encode())
                for name, value in endpoint.caching_headers.items()
            ]
            for method, endpoint in self._endpoints.items()
        }
        self._allow = {"Allow": ", ".join(sorted(self._endpoints))}
        self._histograms: dict[tuple[str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, count it, and log it."""
        start = time.perf_counter()
        request, method = Request(scope, receive), scope["method"]
        request_id = choose_request_id(scope["headers"])
        REQUEST_ID.set(request_id.decode())
        service, code = scope["state"]["service"], ""
        response = service.hosts.check(scope["headers"]) or await self._respond(request)
        if isinstance(response, Refusal):
            code = response.code
            metrics.REFUSALS.labels(code).inc()
            response = refuse(response)
            response.raw_headers.append(NO_STORE)
        else:
            response.raw_headers.extend(self._caching_headers[method])
        seconds = time.perf_counter() - start
        method_label = method if method in self._endpoints else "other"
        self._count(method_label, response.status_code, seconds)
        request_log = service.request_log
        if request_log.is_enabled:
            request_log.add(
                method_label, self._path, _path_id(request), response.status_code, code, seconds
            )
        response.raw_headers.append((b"x-request-id", request_id))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | Refusal:
        endpoint = self._endpoints.get(request.method)
        if endpoint is None:
            return Refusal(
                METHOD_NOT_ALLOWED.status,
                METHOD_NOT_ALLOWED.code,
                METHOD_NOT_ALLOWED.error,
                headers=self._allow,
            )
        try:
            return await endpoint.call(request.scope["state"]["service"], request)
        except UNAVAILABLE:
            return BUSY
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            # Raised only by queries: the write path turns such errors of changes into refusals.
            log.warning("a query has failed: %s", loggable(error))
            return BUSY
        except psycopg.Error as error:
            log.error("%s %s has failed: %s", request.method, self._path, loggable(error))
        except Exception:
            log.exception("%s %s has failed", request.method, self._path)
        return INTERNAL_SERVER_ERROR

    def _count(self, method_label: str, status: int, seconds: float) -> None:
        histogram = self._histograms.get((method_label, status))
        if histogram is None:
            histogram = metrics.REQUEST_SECONDS.labels(method_label, self._path, status)
            self._histograms[method_label, status] = histogram
        histogram.observe(seconds)


class UnknownPath(Resource):
    """Every path that has no route."""

    def __init__(self) -> None:
        super().__init__("none", {})  # the path in the metrics and in the log

    async def _respond(self, _: Request) -> Response | Refusal:
        return NOT_FOUND


def _path_id(request: Request) -> Uuid:
    """Return the ID in the path; '' if there is none or it is invalid."""
    try:
        return parse_uuid(next(iter(request.path_params.values()), ""))
    except ValueError:
        return Uuid("")


class Application(Starlette):
    """A Starlette application without its error middleware: a Resource handles all errors."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the router, wrapped in the configured middleware."""
        stack: ASGIApp = self.router
        for middleware in reversed(self.user_middleware):
            stack = middleware.cls(stack, *middleware.args, **middleware.kwargs)
        return stack


class ExactRoute(Route):
    """A route that matches its path only; Starlette's also matches it with a line break behind."""

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")


def build_application(
    routes: Mapping[str, dict[str, Endpoint]],
    cors_origins: Collection[str],
    lifespan: Lifespan[Starlette],
) -> Starlette:
    """Return the application that serves the routes."""
    app = Application(
        routes=[
            ExactRoute(path, Resource(path, endpoints), methods=None)
            for path, endpoints in routes.items()
        ],
        middleware=[
            Middleware(
                Cors,
                origins=cors_origins,
                endpoints=[
                    method_and_endpoint
                    for endpoints in routes.values()
                    for method_and_endpoint in endpoints.items()
                ],
            )
        ]
        if cors_origins
        else [],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.router.default = UnknownPath()
    return app
