"""The command line: ``holdfast`` run to its end."""

import os
import subprocess
import sys


def holdfast(
    *arguments: str, seconds: float = 60, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run ``holdfast`` to its end, which must come within so many seconds."""
    given = {name.upper(): str(value) for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={"PATH": os.environ["PATH"], "PORT": "0", **given},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with which a command has refused."""
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("holdfast: ")
    return done.stderr
