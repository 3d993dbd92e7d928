"""The app: what answers on every path, and what a process opens at its start and then closes."""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypedDict

import psycopg
from prometheus_client import Histogram
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import limits, metrics
from service.answers import encode, refuse
from service.calls import Endpoint
from service.cors import Cors
from service.database import NO_ANSWER, PLAIN, Environment, open_pool, told
from service.fields import identifier
from service.leaving import Leaving
from service.logs import REQUEST_ID, RequestLog, request_id
from service.openapi import describe
from service.queries import Queries
from service.refusals import BUSY, INTERNAL_SERVER_ERROR, METHOD_NOT_ALLOWED, NOT_FOUND, Refusal
from service.routes import ROUTES
from service.rows import Uuid
from service.settings import Settings
from service.shared_reads import SharedReads
from service.state import Service
from service.statements import load_statements
from service.sweeper import sweep
from service.transaction import Transactions
from service.watchers import Watchers
from service.write_path import WritePath

log = logging.getLogger(__name__)


class State(TypedDict):
    """What the lifespan hands to every request."""

    service: Service


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
            log.warning("a query has failed: %s", told(error))
            return BUSY
        except psycopg.Error as error:
            log.error("%s %s has failed: %s", request.method, self._path, told(error))
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
        return identifier(request.path_params.get("id", ""))
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


async def _report(
    write_path: WritePath, watchers: Watchers, pools: dict[str, AsyncConnectionPool]
) -> None:
    """Take down for ever how things stand, for whoever asks for the metrics."""
    while True:
        metrics.QUEUE.set(write_path.accepted)
        metrics.TURNED_AWAY.set(write_path.turned_away)
        metrics.WATCHERS.set(watchers.count)
        metrics.observe_pools({name: pool.get_stats() for name, pool in pools.items()})
        await asyncio.sleep(limits.REPORT_SECONDS)


def create_app(settings: Settings, dsn: str, environment: Environment = PLAIN) -> Starlette:
    """Return the application; its lifespan opens the database.

    Args:
        settings: what can be set from outside.
        dsn: where the database is.
        environment: what it is, as the check at the start has found.

    Raises:
        BrokenStatement: when a file of ``sql/`` breaks a rule.
    """
    statements = load_statements(settings.sql_dir)
    pooled = environment.is_pooled
    description = encode(describe(ROUTES, settings))
    request_log = RequestLog(
        settings.log_level in ("debug", "info"), settings.log_format == "json", sys.stderr
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        pool = partial(open_pool, dsn, pooled=pooled)
        ask = partial(Queries, statements=statements, pooled=pooled)
        reading = pool(limits.READ_CONNECTIONS, limits.READS_WAITING)
        writing = pool(limits.WRITE_CONNECTIONS, settings.queue_limit, environment.write_options)
        watching = pool(limits.WATCH_CONNECTIONS, limits.READS_WAITING)
        listing = pool(limits.LIST_CONNECTIONS, limits.READS_WAITING)
        pools = {"reads": reading, "writes": writing, "watching": watching, "lists": listing}
        async with reading, writing, watching, listing:
            queries = ask(reading)
            write_path = WritePath(
                writing,
                Transactions(statements, settings.hold_seconds, pooled=pooled),
                queries,
                across_events=settings.batch_across_events,
                queue_limit=settings.queue_limit,
            )
            apart = ask(watching)
            watchers = Watchers(apart)
            always = [
                asyncio.create_task(sweep(queries, write_path)),
                asyncio.create_task(watchers.run()),
                asyncio.create_task(_report(write_path, watchers, pools)),
            ]
            leaving = Leaving()
            leaving.watch()
            gc.freeze()
            gc.set_threshold(*limits.GARBAGE_THRESHOLDS)
            try:
                app.state.service = Service(
                    settings,
                    write_path,
                    queries,
                    apart,
                    SharedReads(queries),
                    ask(listing),
                    watchers,
                    request_log,
                    leaving,
                    description,
                )
                yield {"service": app.state.service}
            finally:
                watchers.close()
                for task in always:
                    task.cancel()
                await write_path.close()
                request_log.flush()

    app = Application(
        routes=[
            Route(path, Resource(path, endpoints), methods=None)
            for path, endpoints in ROUTES.items()
        ],
        middleware=[
            Middleware(
                Cors,
                origins=settings.cors_origins,
                endpoints=[pair for path in ROUTES.values() for pair in path.items()],
            )
        ]
        if settings.cors_origins
        else [],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.router.default = Nowhere()
    return app
