"""The contenders of the benchmark, and the temporary PostgreSQL that they use."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.parent import stop_with_parent
from service.embedded.postgres import EmbeddedPostgres
from service.settings import resource
from service.temporary import TemporaryFolder

ROOT = Path(__file__).parent.parent.parent

UVICORN = ("-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log")
# The arguments of ``python`` that start each contender.
CONTENDERS: dict[str, Sequence[str]] = {
    "holdfast": ("-m", "service"),
    "textbook": (*UVICORN, "--log-level", "error", "tests.benchmarks.textbook:app"),
    "no database": (*UVICORN, "--log-level", "error", "tests.benchmarks.no_database:app"),
}
# The contenders of the trial "alternatives".
ALTERNATIVES: dict[str, Sequence[str]] = {
    name: (*UVICORN, "--log-level", "error", f"tests.benchmarks.{module}:app")
    for name, module in (
        ("redis", "redis_tickets"),
        ("queue", "queued"),
        ("ticket rows", "ticket_rows"),
    )
}


@contextmanager
def own_database() -> Iterator[str]:
    """Run a temporary PostgreSQL with its default settings (with fsync), and yield its URL."""
    with TemporaryFolder.create("bench") as folder:
        folder.path.chmod(0o755)
        with EmbeddedPostgres(folder.path) as postgres:
            assert postgres.dsn is not None
            migrate(postgres.dsn, load_statements(resource("sql")))
            yield postgres.dsn


@contextmanager
def serving(
    contender: str, dsn: str, settings: Mapping[str, object]
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a contender for as long as the block runs, and yield its URL and its process."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = {**CONTENDERS, **ALTERNATIVES}[contender]
    if contender != "holdfast":
        arguments = (*arguments, "--port", str(port))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={
            **os.environ,
            **{name: str(value) for name, value in settings.items()},
            "DATABASE_URL": dsn,
            "PORT": str(port),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
        preexec_fn=stop_with_parent(os.getpid(), signal.SIGTERM),
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
    raise RuntimeError(f"the contender does not accept connections on port {port} within 30 s")


def peak_megabytes(process: subprocess.Popen[str]) -> float:
    """Return the peak memory of a process or of its largest worker."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return max(
        int(line.split()[1]) / 1024
        for pid in (str(process.pid), *children)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
