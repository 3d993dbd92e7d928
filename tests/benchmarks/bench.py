"""The benchmark: the service, the textbook transaction, and the same server with no database.

All three run on this machine, in turn, round after round, on one PostgreSQL of the benchmark's
own; the load runs beside them. What is told is the median of the rounds, and ratios within the
run: what two runs say, on two days or two machines, has little to do with one another.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.embedded import EmbeddedPostgres
from service.migrations import migrate
from service.settings import resource
from service.statements import load_statements
from tests.benchmarks.load import Request, Result, load

ROOT = Path(__file__).parent.parent.parent
PLENTY = 1_000_000_000
HOLDS = 60_000
"""More than anybody pays for in the time of one load."""
CLIENTS_OF_PLOT = (1, 2, 5, 10, 20, 50, 100, 200, 400)

UVICORN = ("-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log")
CONTENDERS: dict[str, Sequence[str]] = {
    "holdfast": ("-m", "service"),
    "textbook": (*UVICORN, "--log-level", "error", "tests.benchmarks.textbook:app"),
    "no database": (*UVICORN, "--log-level", "error", "tests.benchmarks.no_database:app"),
}
"""What each is started with, behind ``python``."""


@dataclass(frozen=True)
class Workload:
    """What is asked of all contenders, and which answers count."""

    name: str
    clients: int
    requests: Callable[[psycopg.Connection], list[Request]]
    statuses: tuple[int, ...]
    contenders: tuple[str, ...] = ("holdfast", "textbook")


def _events(database: psycopg.Connection, how_many: int, tickets: int = PLENTY) -> list[str]:
    rows = database.execute(
        "insert into events (name, date, total_tickets) "
        "select 'event ' || gen_random_uuid(), '2030-01-01', %s from generate_series(1, %s) "
        "returning id",
        [tickets, how_many],
    ).fetchall()
    return [str(id_) for (id_,) in rows]


def _reservations(events: Sequence[str]) -> list[Request]:
    body = json.dumps({"quantity": 1, "userFingerprint": "buyer-%n"})
    return [Request("POST", f"/events/{event}/tickets", body) for event in events]


def _holds(database: psycopg.Connection) -> list[str]:
    (event,) = _events(database, 1)
    rows = database.execute(
        "insert into ticket_allocations (event_id, user_fingerprint, expires_at) "
        "select %s, 'owner', now() + interval '1 hour' from generate_series(1, %s) returning id",
        [event, HOLDS],
    ).fetchall()
    database.execute("update events set allocated_tickets = %s where id = %s", [HOLDS, event])
    return [str(id_) for (id_,) in rows]


def _payments(database: psycopg.Connection) -> list[Request]:
    body = json.dumps({"userFingerprint": "owner"})
    paths = (f"/events/tickets/{id_}/payment" for id_ in _holds(database))
    return [Request("POST", path, body) for path in paths]


def _cancellations(database: psycopg.Connection) -> list[Request]:
    paths = (f"/events/tickets/{id_}/payment" for id_ in _holds(database))
    return [Request("DELETE", path, "owner") for path in paths]


def _looks(database: psycopg.Connection) -> list[Request]:
    return [Request("GET", f"/events/{event}") for event in _events(database, 1)]


def _sold_out(database: psycopg.Connection) -> list[Request]:
    return _reservations(_events(database, 1, tickets=1))


ALL = tuple(CONTENDERS)
WORKLOADS = (
    Workload("one hot event", 100, lambda db: _reservations(_events(db, 1)), (201,), ALL),
    Workload("over 1,000 events", 100, lambda db: _reservations(_events(db, 1000)), (201,)),
    Workload("one client alone", 1, lambda db: _reservations(_events(db, 1)), (201,)),
    Workload("paying for holds", 100, _payments, (200,)),
    Workload("cancelling holds", 100, _cancellations, (200,)),
    Workload("refusing when sold out", 100, _sold_out, (409,)),
    Workload("looking at one event", 100, _looks, (200,), ALL),
)


@dataclass(frozen=True)
class Outcome:
    """What one contender did of one workload: medians over the rounds."""

    workload: str
    contender: str
    clients: int
    rate: float
    """Answers that count, in a second."""
    p50: float
    """In milliseconds, as is the next."""
    p99: float
    peak_megabytes: float
    """Of the contender's process, the most it ever had."""
    other: int
    """Answers that do not count."""


def run(rounds: int, seconds: float, workers: int, workloads: Sequence[Workload]) -> list[Outcome]:
    """Run all workloads, round by round, with a bar on a terminal's stderr."""
    results: dict[tuple[int, str], list[tuple[Result, float]]] = {}
    pairs = [(n, one) for n, work in enumerate(workloads) for one in work.contenders]
    progress = Progress(console=Console(stderr=True), transient=True)
    progress.disable = not sys.stderr.isatty()
    with _database() as dsn, psycopg.connect(dsn, autocommit=True) as database, progress:
        bar = progress.add_task("", total=rounds * len(pairs))
        for _ in range(rounds):
            for n, contender in pairs:
                work = workloads[n]
                progress.update(bar, description=f"{work.name}: {contender}")
                requests = work.requests(database)
                with _serving(contender, dsn, workers) as (url, process):
                    result = load(url, requests, work.clients, seconds)
                    peak = _peak_megabytes(process)
                results.setdefault((n, contender), []).append((result, peak))
                progress.advance(bar)
    return [_outcome(workloads[n], name, told) for (n, name), told in results.items()]


def _outcome(work: Workload, contender: str, told: Sequence[tuple[Result, float]]) -> Outcome:
    results = [result for result, _ in told]
    return Outcome(
        work.name,
        contender,
        work.clients,
        statistics.median(result.rate(*work.statuses) for result in results),
        statistics.median(result.p50 for result in results),
        statistics.median(result.p99 for result in results),
        max(peak for _, peak in told),
        sum(
            number
            for result in results
            for status, number in result.statuses.items()
            if status not in work.statuses
        ),
    )


@contextmanager
def _database() -> Iterator[str]:
    """Give the URL of a PostgreSQL of our own, as it comes: with fsync."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder)) as postgres:
            assert postgres.dsn is not None
            migrate(postgres.dsn, load_statements(resource("sql")))
            yield postgres.dsn


@contextmanager
def _serving(contender: str, dsn: str, workers: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a contender for as long as the block runs, and give its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = CONTENDERS[contender]
    if contender != "holdfast":
        arguments = (*arguments, "--port", str(port))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "DATABASE_URL": dsn, "PORT": str(port), "WORKERS": str(workers)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    )
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError("a contender does not answer")


def _peak_megabytes(process: subprocess.Popen[str]) -> float:
    """Return the most memory that a process, or the largest of its workers, ever had."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return max(
        int(line.split()[1]) / 1024
        for pid in (str(process.pid), *children)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print what came of it: a row for each workload, with the ratios, which are what counts."""
    table = Table(
        "workload",
        *("clients", "a second", "p50 ms", "p99 ms"),
        *("textbook", "p50 ms", "× textbook"),
        *("no database", "of that"),
    )
    by_name = {(one.workload, one.contender): one for one in outcomes}
    for ours in (one for one in outcomes if one.contender == "holdfast"):
        textbook = by_name[ours.workload, "textbook"]
        nothing = by_name.get((ours.workload, "no database"))
        table.add_row(
            ours.workload,
            *(f"{ours.clients}", f"{ours.rate:,.0f}", f"{ours.p50:.1f}", f"{ours.p99:.1f}"),
            *(f"{textbook.rate:,.0f}", f"{textbook.p50:.1f}", f"{ours.rate / textbook.rate:.1f}"),
            *((f"{nothing.rate:,.0f}", f"{ours.rate / nothing.rate:.0%}") if nothing else ()),
        )
    Console(width=110).print(table)
    peak = max(one.peak_megabytes for one in outcomes if one.contender == "holdfast")
    print(f"Rates are answers in a second. The service never had more than {peak:.0f} MB.")


def plot(file: Path, seconds: float, workers: int) -> None:
    """Draw how many tickets of one event are sold in a second, by how many clients ask."""
    from matplotlib.figure import Figure

    hot = WORKLOADS[0]
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    works = [Workload(hot.name, clients, hot.requests, hot.statuses) for clients in CLIENTS_OF_PLOT]
    outcomes = run(1, seconds, workers, works)
    for contender in ("holdfast", "textbook"):
        mine = [one for one in outcomes if one.contender == contender]
        axes.plot([one.clients for one in mine], [one.rate for one in mine], "o-", label=contender)
    axes.set_xscale("log")
    axes.set_xticks(CLIENTS_OF_PLOT, [str(clients) for clients in CLIENTS_OF_PLOT])
    axes.set_xlabel("clients at once")
    axes.set_ylabel("tickets a second")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as JSON."""
    return json.dumps([asdict(one) for one in outcomes], indent=2)
