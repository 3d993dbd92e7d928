"""The command ``holdfast``, run to its end."""

import os
import subprocess
import sys


def holdfast(
    *arguments: str, seconds: float = 60, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run ``holdfast`` with these arguments and environment variables.

    It fails if the command takes longer than ``seconds``.
    """
    environment = {name.upper(): str(value) for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={"PATH": os.environ["PATH"], "PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def error_line(process: subprocess.CompletedProcess[str]) -> str:
    """Return the error message of a command that must have failed with exactly one line."""
    assert process.returncode == 1, process
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert process.stderr.startswith("holdfast: ")
    return process.stderr
