"""The application of one process: what it opens at startup and closes at shutdown."""

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypedDict

from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette

from service import limits, metrics
from service.database.connections import PLAIN_POSTGRES, Environment, create_pool
from service.database.queries import Queries
from service.database.statements import load_statements
from service.log_output import stderr_output
from service.logs import RequestLog
from service.settings import Settings
from service.web.hosts import Hosts
from service.web.openapi import describe
from service.web.page_files import PART_ROUTES
from service.web.resources import build_application
from service.web.responses import encode
from service.web.routes import ROUTES
from service.web.shared_reads import share_audits, share_entries, share_events
from service.web.shutdown_delay import ShutdownDelay
from service.web.state import Service
from service.web.watching import Watchers
from service.write_path.path import WritePath
from service.write_path.sweeper import sweep
from service.write_path.transaction import Transactions


class State(TypedDict):
    """What the lifespan adds to the scope of every request."""

    service: Service


async def _update_gauges(
    write_path: WritePath, watchers: Watchers, pools: Mapping[str, AsyncConnectionPool]
) -> None:
    """Keep the gauges of the metrics current until canceled."""
    while True:
        metrics.PENDING_CHANGES.set(write_path.pending_changes)
        metrics.DELAYED_REFUSALS.set(write_path.delayed_refusals)
        metrics.WATCHERS.set(watchers.count)
        metrics.observe_pools({name: pool.get_stats() for name, pool in pools.items()})
        await asyncio.sleep(limits.GAUGE_INTERVAL_SECONDS)


def create_app(
    settings: Settings, dsn: str, environment: Environment = PLAIN_POSTGRES
) -> Starlette:
    """Return the application; its lifespan opens the connections to the database.

    Args:
        settings: the service's settings.
        dsn: the address of the database.
        environment: whether the database is behind a pooler, and whether it is Citus.

    Raises:
        BrokenStatement: a file of ``sql/`` is missing or breaks a rule of ``load_statements``.
    """
    statements = load_statements(settings.sql_dir)
    behind_pooler = environment.is_behind_pooler
    openapi = encode(describe(ROUTES, settings))
    request_log = RequestLog(
        is_enabled=settings.log_level in ("debug", "info"),
        as_json=settings.log_format == "json",
        output=stderr_output(),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        make_pool = partial(create_pool, dsn, behind_pooler=behind_pooler)
        make_queries = partial(Queries, statements=statements, behind_pooler=behind_pooler)
        reads = make_pool("reads", limits.READ_CONNECTIONS, limits.MAX_WAITING_READS)
        writes = make_pool(
            "writes", limits.WRITE_CONNECTIONS, settings.queue_limit, environment.write_options
        )
        watching = make_pool("watching", limits.WATCH_CONNECTIONS, limits.MAX_WAITING_READS)
        lists = make_pool("lists", limits.LIST_CONNECTIONS, limits.MAX_WAITING_READS)
        audits = make_pool("audits", limits.AUDIT_CONNECTIONS, limits.MAX_WAITING_READS)
        pools = {pool.name: pool for pool in (reads, writes, watching, lists, audits)}
        async with reads, writes, watching, lists, audits:
            lookup_queries = make_queries(reads)
            # Only these pools have connections that commit, and so may wait for a standby.
            reads.is_waiting_for_standby = lookup_queries.is_waiting_for_standby
            writes.is_waiting_for_standby = lookup_queries.is_waiting_for_standby
            watch_queries = make_queries(watching)
            write_path = WritePath(
                writes,
                Transactions(
                    statements,
                    settings.hold_seconds,
                    settings.max_hold_seconds,
                    settings.max_waiting_entries,
                    behind_pooler=behind_pooler,
                ),
                lookup_queries,
                across_events=settings.batch_across_events,
                queue_limit=settings.queue_limit,
            )
            watchers = Watchers(watch_queries)
            background_tasks = [
                asyncio.create_task(sweep(lookup_queries, write_path)),
                asyncio.create_task(watchers.run()),
                asyncio.create_task(_update_gauges(write_path, watchers, pools)),
            ]
            shutdown_delay = ShutdownDelay()
            shutdown_delay.catch_sigterm()
            # Exclude the objects that exist now from every later garbage collection.
            gc.freeze()
            gc.set_threshold(*limits.GC_THRESHOLDS)
            try:
                # Handlers use the yielded state; tests also read the application's.
                app.state.service = Service(
                    settings,
                    write_path,
                    lookup_queries,
                    watch_queries,
                    share_events(lookup_queries),
                    make_queries(lists),
                    share_audits(make_queries(audits)),
                    share_entries(lookup_queries),
                    watchers,
                    Hosts(settings.accepted_hosts),
                    request_log,
                    shutdown_delay,
                    openapi,
                )
                yield {"service": app.state.service}
            finally:
                watchers.close()
                for task in background_tasks:
                    task.cancel()
                await write_path.close()
                request_log.flush()

    return build_application(ROUTES | PART_ROUTES, settings.cors_origins, lifespan)
