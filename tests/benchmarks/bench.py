"""The benchmark: the service, the textbook transaction, and the same server with no database.

All three run on this machine, in turn, for several rounds, on one temporary PostgreSQL; the load
generator runs on the same machine. The results are medians over the rounds. Compare only ratios
within one run: absolute rates differ between days and machines.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.benchmarks.contenders import own_database, peak_megabytes, serving
from tests.benchmarks.load import Result, load
from tests.benchmarks.workloads import WORKLOADS, Workload

PLOT_CLIENTS = (1, 2, 5, 10, 20, 50, 100, 200, 400)


@dataclass(frozen=True)
class Summary:
    """The results of one contender for one workload: medians over the rounds."""

    workload: str
    contender: str
    clients: int
    rate: float  # responses of the workload's statuses, per second
    p50: float  # latencies in milliseconds
    p99: float
    peak_megabytes: float  # of the contender's largest process
    other: int  # responses of other statuses


def run(rounds: int, seconds: float, workers: int, workloads: Sequence[Workload]) -> list[Summary]:
    """Run all workloads for several rounds, with a progress bar if stderr is a terminal."""
    results: dict[tuple[int, str], list[tuple[Result, float]]] = {}
    pairs = [(n, name) for n, workload in enumerate(workloads) for name in workload.contenders]
    progress = Progress(console=Console(stderr=True), transient=True)
    progress.disable = not sys.stderr.isatty()
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database, progress:
        task = progress.add_task("", total=rounds * len(pairs))
        for _ in range(rounds):
            for n, contender in pairs:
                workload = workloads[n]
                progress.update(task, description=f"{workload.name}: {contender}")
                requests = workload.requests(database)
                with serving(contender, dsn, {"WORKERS": workers}) as (url, process):
                    result = load(url, requests, workload.clients, seconds)
                    peak = peak_megabytes(process)
                results.setdefault((n, contender), []).append((result, peak))
                progress.advance(task)
    return [_summarize(workloads[n], name, runs) for (n, name), runs in results.items()]


def _summarize(workload: Workload, contender: str, runs: Sequence[tuple[Result, float]]) -> Summary:
    results = [result for result, _ in runs]
    return Summary(
        workload.name,
        contender,
        workload.clients,
        statistics.median(result.rate(*workload.statuses) for result in results),
        statistics.median(result.p50 for result in results),
        statistics.median(result.p99 for result in results),
        max(peak for _, peak in runs),
        sum(
            number
            for result in results
            for status, number in result.statuses.items()
            if status not in workload.statuses
        ),
    )


def print_table(summaries: Sequence[Summary]) -> None:
    """Print a table with a row for each workload, and the ratios to the other contenders."""
    table = Table(
        "workload",
        *("clients", "per second", "p50 ms", "p99 ms"),
        *("textbook", "p50 ms", "× textbook"),
        *("no database", "share"),
    )
    by_name = {(row.workload, row.contender): row for row in summaries}
    for holdfast in (row for row in summaries if row.contender == "holdfast"):
        textbook = by_name[holdfast.workload, "textbook"]
        no_database = by_name.get((holdfast.workload, "no database"))
        table.add_row(
            holdfast.workload,
            *(
                f"{holdfast.clients}",
                f"{holdfast.rate:,.0f}",
                f"{holdfast.p50:.1f}",
                f"{holdfast.p99:.1f}",
            ),
            *(
                f"{textbook.rate:,.0f}",
                f"{textbook.p50:.1f}",
                f"{holdfast.rate / textbook.rate:.1f}",
            ),
            *(
                (f"{no_database.rate:,.0f}", f"{holdfast.rate / no_database.rate:.0%}")
                if no_database
                else ()
            ),
        )
    Console(width=110).print(table)
    peak = max(row.peak_megabytes for row in summaries if row.contender == "holdfast")
    print(f"Rates are responses per second. The peak memory of the service was {peak:.0f} MB.")


def plot(file: Path, seconds: float, workers: int) -> None:
    """Plot the tickets of one event that are sold per second over the number of clients."""
    from matplotlib.figure import Figure

    hot = WORKLOADS[0]
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    plot_workloads = [
        Workload(hot.name, clients, hot.requests, hot.statuses) for clients in PLOT_CLIENTS
    ]
    summaries = run(1, seconds, workers, plot_workloads)
    for contender in ("holdfast", "textbook"):
        points = [row for row in summaries if row.contender == contender]
        axes.plot(
            [row.clients for row in points], [row.rate for row in points], "o-", label=contender
        )
    axes.set_xscale("log")
    axes.set_xticks(PLOT_CLIENTS, [str(clients) for clients in PLOT_CLIENTS])
    axes.set_xlabel("concurrent clients")
    axes.set_ylabel("tickets per second")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})


def as_json(summaries: Sequence[Summary]) -> str:
    """Return the results as JSON."""
    return json.dumps([asdict(row) for row in summaries], indent=2)
