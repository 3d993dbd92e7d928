"""The benchmark: the service, the textbook transaction, and the same server with no database.

All three run on this machine, in turn, round after round, on one PostgreSQL of the benchmark's
own; the load runs beside them. What is told is the median of the rounds, and ratios within the
run: what two runs say, on two days or two machines, has little to do with one another.
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

CLIENTS_OF_PLOT = (1, 2, 5, 10, 20, 50, 100, 200, 400)


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
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database, progress:
        bar = progress.add_task("", total=rounds * len(pairs))
        for _ in range(rounds):
            for n, contender in pairs:
                work = workloads[n]
                progress.update(bar, description=f"{work.name}: {contender}")
                requests = work.requests(database)
                with serving(contender, dsn, {"WORKERS": workers}) as (url, process):
                    result = load(url, requests, work.clients, seconds)
                    peak = peak_megabytes(process)
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
