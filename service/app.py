"""The app: what a process opens at its start and then closes."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypedDict

from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette

from service import limits, metrics
from service.database.connections import PLAIN, Environment, open_pool
from service.database.queries import Queries
from service.database.statements import load_statements
from service.logs import RequestLog
from service.settings import Settings
from service.web.leaving import Leaving
from service.web.openapi import describe
from service.web.resources import build_application
from service.web.responses import encode
from service.web.routes import ROUTES
from service.web.shared_reads import SharedReads
from service.web.state import Service
from service.web.watching import Watchers
from service.write_path.path import WritePath
from service.write_path.sweeper import sweep
from service.write_path.transaction import Transactions


class State(TypedDict):
    """What the lifespan hands to every request."""

    service: Service


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
            leaving.catch_sigterm()
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

    return build_application(ROUTES, settings.cors_origins, lifespan)
