"""Health: the health checks and the metrics."""

import psycopg
from starlette.responses import Response

from service import metrics
from service.database.connections import UNAVAILABLE
from service.database.migrations import migration_names
from service.refusals import Refusal
from service.web.endpoints import Call
from service.web.responses import (
    DatabaseHealth,
    HealthResponse,
    LiveResponse,
    MigrationsHealth,
    respond,
)


async def check_health(call: Call) -> Response | Refusal:
    """Check that the database is reachable and migrated, and that the service is not stopping.

    For load balancers: send requests to the service only while the status is 200. It is 503 for a
    moment before the service stops.
    """
    queries = call.service.health_queries
    try:
        version = await queries.server_version()
        applied = await queries.list_applied_migrations()
    except (psycopg.OperationalError, *UNAVAILABLE):
        response = HealthResponse(
            "unavailable", DatabaseHealth("unreachable"), MigrationsHealth("unreachable")
        )
        return respond(response, 503)
    known = migration_names()
    pending = [name for name in known if name not in applied]
    # A newer version of the service has applied these. This version may continue to serve: a
    # migration that it cannot work with is applied only when no service is connected.
    ahead = [name for name in applied if name not in known]
    is_ready = not pending and not call.service.shutdown_delay.has_begun
    response = HealthResponse(
        "ok" if is_ready else "unavailable",
        DatabaseHealth("ok", version),
        MigrationsHealth("pending" if pending else "ahead" if ahead else "ok", pending, ahead),
    )
    return respond(response, 200 if is_ready else 503)


async def show_metrics(_: Call) -> Response | Refusal:
    """Return the metrics of all workers, in the format of Prometheus.

    They have no fingerprints and no IDs.
    """
    return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)


async def check_live(_: Call) -> Response | Refusal:
    """Check that the process is running, and nothing else.

    For supervisors: restart a process that does not respond.
    """
    return respond(LiveResponse("ok"))
