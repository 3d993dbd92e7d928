"""Services under test: in a thread of the test, or in a process of their own."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette

from service.app import create_app
from service.database.connections import Environment
from service.embedded.parent import stop_with_parent
from service.serving import bind, server_config
from service.settings import Settings, read_settings
from service.web.state import Service
from tests.support.client import Client, is_live
from tests.support.database import Database
from tests.support.run_log import RUN_LOG
from tests.support.waiting import WAIT_SECONDS, wait_until


@dataclass
class RunningService:
    """A service in a thread of the test's process, on a free port."""

    database: Database
    settings: Settings
    # Whether it behaves as behind a pooler, even if there is none.
    behind_pooler: bool = False
    url: str = ""
    _app: Starlette | None = field(default=None, repr=False)
    _server: uvicorn.Server | None = field(default=None, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it accepts requests."""
        self._app = create_app(
            self.settings,
            self.database.service_dsn,
            Environment(
                is_behind_pooler=self.behind_pooler or self.database.is_behind_pooler,
                is_citus=self.database.is_on_citus,
            ),
        )
        config = server_config(self.settings, self._app)
        listener = bind(self.settings)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        wait_until(lambda: self._server is not None and self._server.started)

    def stop(self) -> None:
        """Stop it as SIGTERM would."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join()

    @property
    def state(self) -> Service:
        """The state that its request handlers share."""
        assert self._app is not None
        state: Service = self._app.state.service
        return state

    def count_tasks(self) -> int:
        """Return how many requests are being handled."""
        assert self._server is not None
        return len(self._server.server_state.tasks)

    def count_connections(self) -> int:
        """Return how many clients are connected."""
        assert self._server is not None
        return len(self._server.server_state.connections)

    def wait_until_accepted(self, count: int) -> None:
        """Wait until exactly ``count`` changes wait in the service for their outcome."""
        wait_until(lambda: self.state.write_path.pending_changes == count)

    def client(self) -> Client:
        """Return a client with its own connections."""
        return Client(base_url=self.url, timeout=WAIT_SECONDS)


class Starter(Protocol):
    """The type of the fixture ``start``."""

    def __call__(
        self, database: Database, *, sweeps: bool = True, **settings: Any
    ) -> RunningService:
        """Start a service on a database, with these settings."""


def settings_for_tests(**changes: Any) -> Settings:
    """Return the settings of a service under test."""
    variables = {name.upper(): str(value) for name, value in changes.items()}
    return read_settings({"PORT": "0", "LOG_LEVEL": "error", **variables})


@contextmanager
def run_service(database: Database, **settings: Any) -> Iterator[Client]:
    """Run ``holdfast serve`` in a process of its own, as in production; yield a client."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    variables = {name.upper(): str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={**os.environ, "DATABASE_URL": database.service_dsn, "PORT": str(port), **variables},
        stderr=RUN_LOG.file,
        text=True,
        preexec_fn=stop_with_parent(os.getpid(), signal.SIGTERM),
    )
    try:
        with Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
            wait_until(lambda: is_live(client) or process.poll() is not None)
            assert process.poll() is None, RUN_LOG.read()[-1000:]
            client.process = process
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS * 2)


@contextmanager
def run_embedded_service(
    folder: Path, port: int, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Run ``holdfast`` with its embedded PostgreSQL in ``folder``, as a new user would.

    Yields its process and a client.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "PORT": str(port)} | variables,
        stderr=RUN_LOG.file,
        text=True,
        start_new_session=True,
        preexec_fn=stop_with_parent(os.getpid(), signal.SIGTERM),
    )
    try:
        with Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
            wait_until(lambda: is_live(client) or process.poll() is not None)
            assert process.poll() is None, RUN_LOG.read()[-1000:]
            yield process, client
    finally:
        process.kill()
        process.communicate()
        wait_until(lambda: not is_postgres_running(folder))


def is_postgres_running(folder: Path) -> bool:
    """Whether a PostgreSQL runs on this data; one that was killed leaves its postmaster.pid."""
    try:
        return any(
            Path("/proc", pid_file.read_text().partition("\n")[0]).exists()
            for pid_file in folder.glob("postgresql-*/postmaster.pid")
        )
    except FileNotFoundError:  # deleted before it was read
        return False


def worker_pids(pid: int) -> list[int]:
    """Return the process IDs of a service's workers, without its resource tracker."""
    workers = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers
