"""Services: one in a thread of the test, or as a process of its own."""

import os
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
from service.serving import bind, server_config
from service.settings import Settings, read_settings
from service.web.state import Service
from tests.support.client import Client, is_live
from tests.support.database import Database
from tests.support.run_log import RUN_LOG
from tests.support.waiting import WAIT_SECONDS, wait_until


@dataclass
class RunningService:
    """A service in a thread of the test's process, on a port of its own."""

    database: Database
    settings: Settings
    pooled: bool = False
    """Whether it keeps to what holds behind a pooler, also where there is none."""
    url: str = ""
    _app: Starlette | None = field(default=None, repr=False)
    _server: uvicorn.Server | None = field(default=None, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._app = create_app(
            self.settings,
            self.database.service_dsn,
            Environment(is_pooled=self.pooled or self.database.is_pooled),
        )
        config = server_config(self.settings, self._app)
        listening = bind(self.settings)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
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
        """What it has, as its handlers see it."""
        assert self._app is not None
        state: Service = self._app.state.service
        return state

    def count_tasks(self) -> int:
        """Return how many tasks its event loop has under way."""
        assert self._server is not None
        return len(self._server.server_state.tasks)

    def count_connections(self) -> int:
        """Return how many clients are connected."""
        assert self._server is not None
        return len(self._server.server_state.connections)

    def wait_until_accepted(self, how_many: int) -> None:
        """Wait until so many changes wait in the service for their answer."""
        wait_until(lambda: self.state.write_path.pending_changes == how_many)

    def client(self) -> Client:
        """Return a client with connections of its own."""
        return Client(base_url=self.url, timeout=WAIT_SECONDS)


class Starter(Protocol):
    """What the fixture ``start`` is."""

    def __call__(
        self, database: Database, *, sweeps: bool = True, **settings: Any
    ) -> RunningService:
        """Start a service on a database, with settings by name."""


def settings_for_tests(**changes: Any) -> Settings:
    """Return the settings of a service under test."""
    variables = {name.upper(): str(value) for name, value in changes.items()}
    return read_settings({"PORT": "0", "LOG_LEVEL": "error", **variables})


@contextmanager
def run_service(database: Database, **settings: Any) -> Iterator[Client]:
    """Run ``holdfast serve`` as a process of its own, as in production, and give a client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {name.upper(): str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={**os.environ, "DATABASE_URL": database.service_dsn, "PORT": str(port), **variables},
        stderr=RUN_LOG.file,
        text=True,
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
    """Run ``holdfast`` on its embedded default, as a new user would."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "PORT": str(port)} | variables,
        stderr=RUN_LOG.file,
        text=True,
        start_new_session=True,
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
    """Whether a PostgreSQL runs on this data: a killed one leaves its postmaster.pid behind."""
    try:
        return any(
            Path("/proc", pid_file.read_text().partition("\n")[0]).exists()
            for pid_file in folder.glob("postgresql-*/postmaster.pid")
        )
    except FileNotFoundError:  # gone between the look and the read
        return False


def worker_pids(pid: int) -> list[int]:
    """Return the pids of the workers of a service that has several; not its resource tracker."""
    workers = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers
