"""The Prometheus metrics of the service.

With several workers each writes files of its own, and the worker that gets the request for
``/metrics`` adds them up (prometheus_client's multiprocess mode). The values of all labels are from
closed lists: routes, not paths; codes, not texts.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.temporary import TemporaryFolder

# The environment variable by which prometheus_client finds the files of all workers.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS_IN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

CONTENT_TYPE = CONTENT_TYPE_LATEST
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()

REQUEST_SECONDS = Histogram(
    "holdfast_request_seconds",
    "Time until the response to a request was ready.",
    ["method", "route", "status"],
    registry=REGISTRY,
    buckets=_BUCKETS_IN_SECONDS,
)
REFUSALS = Counter("holdfast_refusals", "Refused requests by code.", ["code"], registry=REGISTRY)
TICKETS = Counter(
    "holdfast_tickets", "Tickets by the status that they were given.", ["change"], registry=REGISTRY
)
LATE_PAYMENTS = Counter(
    "holdfast_late_payments",
    "Payments with ifExpired for an expired hold; saved: its tickets were reacquired.",
    ["outcome"],
    registry=REGISTRY,
)
WAITING_TICKETS = Gauge(
    "holdfast_waiting_tickets",
    "Tickets that people in the waiting lists of all events want.",
    registry=REGISTRY,
    multiprocess_mode="max",
)
WAITING_ENTRIES = Counter(
    "holdfast_waiting_entries",
    "Entries of waiting lists that joined, left, got an offer, or could not be served.",
    ["change"],
    registry=REGISTRY,
)
OFFER_WAIT_SECONDS = Histogram(
    "holdfast_offer_wait_seconds",
    "Time from joining a waiting list until the offer.",
    registry=REGISTRY,
    buckets=(1, 10, 60, 600, 3600, 21_600, 86_400, 604_800),
)
BATCH_REQUESTS = Histogram(
    "holdfast_batch_requests",
    "Requests in one transaction.",
    registry=REGISTRY,
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
BATCH_SECONDS = Histogram(
    "holdfast_batch_seconds",
    "Time from sending a transaction to its commit.",
    registry=REGISTRY,
    buckets=_BUCKETS_IN_SECONDS,
)
LOCK_WAIT_SECONDS = Histogram(
    "holdfast_lock_wait_seconds",
    "Time that a transaction waited for the locks of its events.",
    registry=REGISTRY,
    buckets=_BUCKETS_IN_SECONDS,
)
BATCHES_FAILED = Counter(
    "holdfast_batches_failed",
    "Failed transactions by SQLSTATE class; lost: the outcome is unknown.",
    ["reason"],
    registry=REGISTRY,
)
PENDING_CHANGES = Gauge(
    "holdfast_queue_requests",
    "Changes that are accepted and not yet resolved.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
DELAYED_REFUSALS = Gauge(
    "holdfast_turned_away_requests",
    "Requests that a full queue refused, and whose response BUSY is delayed.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
WATCHERS = Gauge(
    "holdfast_watchers", "Open streams.", registry=REGISTRY, multiprocess_mode="livesum"
)
CONNECTIONS = Gauge(
    "holdfast_pool_connections",
    "Connections to PostgreSQL by pool and state: working or idle.",
    ["pool", "state"],
    registry=REGISTRY,
    multiprocess_mode="livesum",
)

CONNECTIONS_GIVEN_UP = Counter(
    "holdfast_connections_given_up",
    "Connections to PostgreSQL that were closed because no response came, by pool.",
    ["pool"],
    registry=REGISTRY,
)

LOG_LINES_DROPPED = Counter(
    "holdfast_log_lines_dropped",
    "Lines of the log that were dropped because nobody read the log.",
    registry=REGISTRY,
)

# The metrics of one process, such as its memory, cannot be added up.
if _FOLDER_VARIABLE not in os.environ:
    ProcessCollector(registry=REGISTRY)

# Create these series with the value 0, so that Prometheus sees the first occurrence as an increase.
for change in ("reserved", "purchased", "expired", "user_cancelled", "refunded"):
    TICKETS.labels(change)
for change in ("joined", "left", "offered", "unservable"):
    WAITING_ENTRIES.labels(change)
for outcome in ("saved", "too_late"):
    LATE_PAYMENTS.labels(outcome)
BATCHES_FAILED.labels("lost")
for pool_name in ("reads", "writes", "watching", "lists", "audits"):
    CONNECTIONS_GIVEN_UP.labels(pool_name)


@contextmanager
def multiprocess_mode() -> Iterator[None]:
    """Create the folder for the metrics of the workers that are started in the block."""
    with TemporaryFolder.create("metrics") as folder:
        os.environ[_FOLDER_VARIABLE] = str(folder.path)
        try:
            yield
        finally:
            del os.environ[_FOLDER_VARIABLE]


def keep_folder() -> None:
    """Keep the folder of the metrics until this worker ends, also if its parent is killed."""
    TemporaryFolder(Path(os.environ[_FOLDER_VARIABLE]))


def observe_pools(stats: Mapping[str, Mapping[str, int]]) -> None:
    """Set the gauges of connections from each pool's ``get_stats()``."""
    for name, pool in stats.items():
        idle = pool.get("pool_available", 0)
        CONNECTIONS.labels(name, "idle").set(idle)
        CONNECTIONS.labels(name, "working").set(pool.get("pool_size", 0) - idle)


def render() -> bytes:
    """Return the metrics of all workers in Prometheus's text format."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    if folder is None:
        return generate_latest(REGISTRY)
    _remove_gauges_of_ended_workers(folder)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _remove_gauges_of_ended_workers(folder: str) -> None:
    """Delete the gauges of workers that have ended; their counters stay."""
    for name in os.listdir(folder):
        pid = name.removesuffix(".db").rpartition("_")[2]
        if name.startswith("gauge_live") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            mark_process_dead(int(pid), folder)  # type: ignore[no-untyped-call]
