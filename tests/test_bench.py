"""The benchmark: it runs, and every answer that it counts is one that it asked for."""

import json

import pytest

from tests.benchmarks.workloads import WORKLOADS
from tests.test_commands import holdfast


@pytest.mark.slow
def test_the_benchmark_runs_every_workload() -> None:
    done = holdfast("bench", "--json", "--rounds", "1", "--seconds", "1", seconds=300)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert {(one["workload"], one["contender"]) for one in told} == {
        (work.name, contender) for work in WORKLOADS for contender in work.contenders
    }
    assert all(one["rate"] > 0 for one in told)
    # The holds are more than anybody takes, and everything else has no end.
    assert {one["other"] for one in told} == {0}
