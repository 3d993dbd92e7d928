"""Health: whether the process answers, whether it can do its work, and what it has done."""

import psycopg
from starlette.responses import Response

from service import metrics
from service.database.connections import NO_ANSWER
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
    """Tell whether the database can be reached and has all migrations, and we are to stay."""
    queries = call.service.watching
    try:
        version = await queries.server_version()
        applied = set(await queries.list_applied_migrations())
    except (psycopg.OperationalError, *NO_ANSWER):
        nothing = (DatabaseHealth("unreachable"), MigrationsHealth("unreachable"))
        return respond(HealthResponse("unavailable", *nothing), 503)
    pending = [name for name in migration_names() if name not in applied]
    is_ready = not pending and not call.service.leaving.has_begun
    answer = HealthResponse(
        "ok" if is_ready else "unavailable",
        DatabaseHealth("ok", version),
        MigrationsHealth("pending" if pending else "ok", pending),
    )
    return respond(answer, 200 if is_ready else 503)


async def show_metrics(_: Call) -> Response | Refusal:
    """Show what all workers have counted."""
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


async def check_live(_: Call) -> Response | Refusal:
    """Tell that the process answers, and nothing else."""
    return respond(LiveResponse("ok"))
