"""The resources: what answers on every path, and the application that finds them."""

import logging
import time
from collections.abc import Collection, Mapping

import psycopg
from prometheus_client import Histogram
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from service import metrics
from service.database.connections import NO_ANSWER, loggable
from service.logs import REQUEST_ID, request_id
from service.refusals import BUSY, INTERNAL_SERVER_ERROR, METHOD_NOT_ALLOWED, NOT_FOUND, Refusal
from service.rows import Uuid
from service.web.cors import Cors
from service.web.endpoints import Endpoint
from service.web.fields import parse_uuid
from service.web.responses import refuse

log = logging.getLogger(__name__)


class Resource:
    """A path: calls the endpoint of the request's method, and lets no error show the inside."""

    def __init__(self, path: str, endpoints: dict[str, Endpoint]) -> None:
        self._path = path
        self._endpoints = endpoints
        if "GET" in endpoints and not endpoints["GET"].streams:
            self._endpoints = {**endpoints, "HEAD": endpoints["GET"]}
        self._private = {method for method, one in self._endpoints.items() if one.is_private}
        self._allow = {"Allow": ", ".join(sorted(self._endpoints))}
        self._counted: dict[tuple[str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and take down that it was."""
        begun = time.perf_counter()
        request, method = Request(scope, receive), scope["method"]
        name = request_id(scope["headers"])
        REQUEST_ID.set(name.decode())
        answer, code = await self._answer(request), ""
        if isinstance(answer, Refusal):
            code = answer.code
            metrics.REFUSALS.labels(code).inc()
            answer = refuse(answer)
        seconds = time.perf_counter() - begun
        self._count(method, answer.status_code, seconds)
        request_log = scope["state"]["service"].request_log
        if request_log.is_on:
            shown = method if method in self._endpoints else "other"
            request_log.add(shown, self._path, _id_of(request), answer.status_code, code, seconds)
        if method in self._private:
            answer.headers["Cache-Control"] = "no-store"
        answer.raw_headers.append((b"x-request-id", name))
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response | Refusal:
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
        except NO_ANSWER:
            return BUSY
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            # Of a query: a write tells itself what became of it.
            log.warning("a query has failed: %s", loggable(error))
            return BUSY
        except psycopg.Error as error:
            log.error("%s %s has failed: %s", request.method, self._path, loggable(error))
        except Exception:
            log.exception("%s %s has failed", request.method, self._path)
        return INTERNAL_SERVER_ERROR

    def _count(self, method: str, status: int, seconds: float) -> None:
        method = method if method in self._endpoints else "other"
        counted = self._counted.get((method, status))
        if counted is None:
            counted = metrics.REQUEST_SECONDS.labels(method, self._path, status)
            self._counted[method, status] = counted
        counted.observe(seconds)


class Nowhere(Resource):
    """Every path that is none of ours."""

    def __init__(self) -> None:
        super().__init__("none", {})

    async def _answer(self, _: Request) -> Response | Refusal:
        return NOT_FOUND


def _id_of(request: Request) -> Uuid:
    """Return the id in the path; '' for none, and for whatever stands there and is none."""
    try:
        return parse_uuid(request.path_params.get("id", ""))
    except ValueError:
        return Uuid("")


class Application(Starlette):
    """Starlette's, without the layers that turn errors into answers: a Resource lets out none."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return what every request goes through: the routes, behind what is asked for."""
        stack: ASGIApp = self.router
        for layer in reversed(self.user_middleware):
            stack = layer.cls(stack, *layer.args, **layer.kwargs)
        return stack


def build_application(
    routes: Mapping[str, dict[str, Endpoint]],
    cors_origins: Collection[str],
    lifespan: Lifespan[Starlette],
) -> Starlette:
    """Return the application that serves the routes."""
    app = Application(
        routes=[
            Route(path, Resource(path, endpoints), methods=None)
            for path, endpoints in routes.items()
        ],
        middleware=[
            Middleware(
                Cors,
                origins=cors_origins,
                endpoints=[pair for path in routes.values() for pair in path.items()],
            )
        ]
        if cors_origins
        else [],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.router.default = Nowhere()
    return app
