"""The benchmark: it runs, and every answer that it counts is one that it asked for."""

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
    """Run ``python -m tests.benchmarks`` to its end."""
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
    done = benchmarks("--json", "--rounds", "1", "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert {(one["workload"], one["contender"]) for one in told} == {
        (work.name, contender) for work in WORKLOADS for contender in work.contenders
    }
    assert all(one["rate"] > 0 for one in told)
    # The holds are more than anybody takes, and everything else has no end.
    assert {one["other"] for one in told} == {0}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--rounds -3", "--rounds: -3 is not understood: a whole number from 1 to 99 is"),
        ("--trial sprint", "--trial: invalid choice: 'sprint' (choose from"),
        ("--plot no/such.svg", "--plot: there is no folder no"),
    ],
)
def test_the_benchmark_refuses_arguments_it_does_not_know(arguments: str, error: str) -> None:
    done = benchmarks(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr


def test_the_page_on_performance_has_every_option_and_trial() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text()
    options = set(re.findall(r"--\w+", build_parser().format_help())) - {"--help"}
    assert set(re.findall(r"^\| `(--\w+)", page, re.MULTILINE)) == options
    assert [trial for trial in TRIALS if f"`{trial}`" not in page] == []
