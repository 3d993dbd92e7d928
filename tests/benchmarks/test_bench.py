"""The benchmark runs every workload, and every response has an expected status."""

import json
import re
import subprocess
import sys

import pytest

from tests.benchmarks.__main__ import build_parser
from tests.benchmarks.trials import TRIALS
from tests.benchmarks.workloads import WORKLOADS
from tests.support.paths import ROOT


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tests.benchmarks``."""
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_the_benchmark_runs_every_workload() -> None:
    process = benchmarks("--json", "--rounds", "1", "--seconds", "1")
    assert (process.returncode, process.stderr) == (0, "")
    rows = json.loads(process.stdout)
    assert {(row["workload"], row["contender"]) for row in rows} == {
        (workload.name, name) for workload in WORKLOADS for name in workload.contenders
    }
    assert all(row["rate"] > 0 for row in rows)
    # No load uses up its holds or tickets.
    assert {row["other"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--rounds -3", "--rounds: -3 is invalid: expected a whole number from 1 to 99"),
        ("--trial sprint", "--trial: invalid choice: 'sprint' (choose from"),
        ("--plot no/such.svg", "--plot: the folder no does not exist"),
    ],
)
def test_the_benchmark_refuses_invalid_arguments(arguments: str, error: str) -> None:
    process = benchmarks(*arguments.split())
    assert (process.returncode, process.stdout) == (2, "")
    assert error in process.stderr


def test_the_page_on_performance_has_every_option_and_trial() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text()
    options = re.findall(r"^  (--\w+)", build_parser().format_help(), re.MULTILINE)
    assert [name for name in (*options, *TRIALS) if f"`{name}" not in page] == []
