"""Commands that install packages from public registries, and that run them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

# What pip and npm print when they cannot reach a registry, but not when a version is missing.
NO_REGISTRY = re.compile(r"from versions: none|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT")


def run(command: str, folder: Path, **variables: str) -> str:
    """Run a bash script as if the folder's .venv were activated, and return its output.

    Skips the test if a package cannot be installed because no registry can be reached.
    """
    process = subprocess.run(
        [shutil.which("bash") or "bash", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode and " install " in command and NO_REGISTRY.search(process.stderr):
        pytest.skip("a package cannot be installed: no package registry can be reached")
    assert process.returncode == 0, f"{command}\n{process.stdout}{process.stderr}"
    return process.stdout
