"""The metrics: what each process counts, in the terms of Prometheus.

With several workers each counts in a file of its own, and whoever is asked adds all of them up
(prometheus_client's multiprocess mode); ``collecting`` makes the folder before the workers begin.
Every label comes from a closed list: routes and not paths, codes and not texts.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

CONTENT_TYPE = CONTENT_TYPE_LATEST
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()

REQUEST_SECONDS = Histogram(
    "holdfast_request_seconds",
    "Requests, and how long until their answer was ready.",
    ["method", "route", "status"],
    registry=REGISTRY,
    buckets=_SECONDS,
)
REFUSALS = Counter(
    "holdfast_refusals", "Requests that were refused, by code.", ["code"], registry=REGISTRY
)
TICKETS = Counter(
    "holdfast_tickets", "Tickets moved, by what became of them.", ["change"], registry=REGISTRY
)
BATCH_REQUESTS = Histogram(
    "holdfast_batch_requests",
    "Requests that were carried out in one transaction.",
    registry=REGISTRY,
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
BATCH_SECONDS = Histogram(
    "holdfast_batch_seconds",
    "From sending a transaction to its commit.",
    registry=REGISTRY,
    buckets=_SECONDS,
)
LOCK_SECONDS = Histogram(
    "holdfast_lock_wait_seconds",
    "How long a transaction waited for the locks of its events.",
    registry=REGISTRY,
    buckets=_SECONDS,
)
BATCHES_FAILED = Counter(
    "holdfast_batches_failed",
    "Transactions that were undone, by SQLSTATE class; lost: nobody knows whether.",
    ["reason"],
    registry=REGISTRY,
)
QUEUE = Gauge(
    "holdfast_queue_requests",
    "Changes that wait for their answer.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
TURNED_AWAY = Gauge(
    "holdfast_turned_away_requests",
    "Requests for which the queue had no room, and which are about to hear it.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
WATCHERS = Gauge(
    "holdfast_watchers", "Open streams.", registry=REGISTRY, multiprocess_mode="livesum"
)
CONNECTIONS = Gauge(
    "holdfast_pool_connections",
    "Connections to PostgreSQL, by pool and by whether they work or wait for work.",
    ["pool", "state"],
    registry=REGISTRY,
    multiprocess_mode="livesum",
)

if _FOLDER not in os.environ:
    ProcessCollector(registry=REGISTRY)


# From 0, so that the first of them is an increase.
for change in ("reserved", "purchased", "expired", "user_cancelled", "refunded"):
    TICKETS.labels(change)
BATCHES_FAILED.labels("lost")


@contextmanager
def collecting() -> Iterator[None]:
    """Give the workers that are started in the block a folder to count in."""
    with tempfile.TemporaryDirectory(prefix="holdfast-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def observe_pools(stats: Mapping[str, Mapping[str, int]]) -> None:
    """Take down how many connections each pool has, from its ``get_stats()``."""
    for name, told in stats.items():
        idle = told.get("pool_available", 0)
        CONNECTIONS.labels(name, "idle").set(idle)
        CONNECTIONS.labels(name, "working").set(told.get("pool_size", 0) - idle)


def exposition() -> bytes:
    """Return all figures, of all workers, in Prometheus's text format."""
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return generate_latest(REGISTRY)
    _forget_the_dead(folder)
    everybody = CollectorRegistry()
    MultiProcessCollector(everybody, folder)  # type: ignore[no-untyped-call]
    return generate_latest(everybody)


def _forget_the_dead(folder: str) -> None:
    """Leave out what a worker that has ended said of its last moment; its counts stay."""
    for name in os.listdir(folder):
        pid = name.removesuffix(".db").rpartition("_")[2]
        if name.startswith("gauge_live") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            mark_process_dead(int(pid), folder)  # type: ignore[no-untyped-call]
