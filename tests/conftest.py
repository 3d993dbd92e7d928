"""Fixtures: one PostgreSQL for all tests, and for each test an empty database."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service import limits
from service.embedded.parent import stop_with_parent
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import find_programs
from service.temporary import TMP, TemporaryFolder, remove_abandoned_folders
from tests.support.api_description import find_undocumented
from tests.support.citus import CITUS, create_schema, runs_on_citus
from tests.support.client import SEEN_RESPONSES, Client
from tests.support.database import (
    PGBOUNCER,
    POOLER_PORT,
    SERVICE_ROLE,
    SHARED_SERVER,
    TEMPLATE,
    Database,
    SpareDatabases,
    create_database,
    create_template,
)
from tests.support.run_log import RUN_LOG
from tests.support.services import RunningService, Starter, settings_for_tests
from tests.support.tools import report_missing
from tests.support.waiting import wait_until


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only modules that contain tests to run: saves seconds with ``-m core``."""
    if CITUS and collection_path.match("test_*.py"):
        return not runs_on_citus(collection_path) or None
    if config.option.markexpr != "core" or not collection_path.match("test_*.py"):
        return None
    return "pytest.mark.core" not in collection_path.read_text() or None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on Citus: everything that was collected for it, except slow tests."""
    for item in items if CITUS else ():
        if not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.citus)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tool is missing, or fail it in CI."""
    for mark in item.iter_markers("needs"):
        is_available, reason = mark.args
        if not is_available:
            report_missing(reason)


def pytest_sessionfinish() -> None:
    """Delete the log of the test run."""
    RUN_LOG.folder.close()


@pytest.fixture(scope="session", autouse=True)
def check_whole_run() -> Iterator[None]:
    """Check after all tests: no fingerprint was logged, and every response is documented."""
    yield
    assert RUN_LOG.leaked_fingerprints() == set()
    assert find_undocumented(SEEN_RESPONSES) == []


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """A folder that PostgreSQL's account may enter, unlike the temporary folder of pytest."""
    remove_abandoned_folders()
    with TemporaryFolder.create("tests", TMP) as folder:
        folder.path.chmod(0o755)
        yield folder.path


@pytest.fixture(scope="session")
def server(data_dir: Path) -> Iterator[str]:
    """The URL of the PostgreSQL that all tests share, with its default settings, so with fsync."""
    if CITUS or SHARED_SERVER:
        yield CITUS or SHARED_SERVER
        return
    with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.dsn is not None
        with run_pgbouncer(data_dir) if PGBOUNCER else nullcontext():
            yield postgres.dsn


@contextmanager
def run_pgbouncer(data_dir: Path) -> Iterator[None]:
    """Run PgBouncer in front of a server, configured as in docs/how-to/pgbouncer.md."""
    folder = data_dir / "pooler"
    folder.mkdir()
    users = "".join(f'"{user}" ""\n' for user in ("holdfast", SERVICE_ROLE))
    (folder / "users").write_text(users)
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={data_dir}/socket
        [pgbouncer]
        pool_mode = transaction
        unix_socket_dir = {folder}
        listen_port = {POOLER_PORT}
        auth_type = trust
        auth_file = {folder}/users
        max_client_conn = 1000
        server_login_retry = 1
        """.replace("\n        ", "\n")
    )
    programs = find_programs()
    programs.chown(folder)
    with (data_dir / "pooler.log").open("wb") as log:
        process = subprocess.Popen(
            [PGBOUNCER, str(folder / "pgbouncer.ini")],
            stderr=log,
            stdout=log,
            preexec_fn=stop_with_parent(os.getpid(), signal.SIGINT),
            **programs.account_options(),
        )
    try:
        wait_until((folder / f".s.PGSQL.{POOLER_PORT}").exists)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The name of a database that has all migrations and no rows."""
    if CITUS:
        return "a schema cannot be cloned, so each is migrated"
    return TEMPLATE if SHARED_SERVER else create_template(server)


def create_empty(server: str) -> AbstractContextManager[Database]:
    """Create a database without tables, or on Citus a schema."""
    return create_schema(is_migrated=False) if CITUS else create_database(server)


Created = Callable[[], AbstractContextManager[Database]]


@pytest.fixture(scope="session")
def create_migrated(server: str, template: str) -> Iterator[Created]:
    """A function that returns a database, or on Citus a schema, with all migrations."""
    if CITUS:
        yield partial(create_schema, is_migrated=True)
        return
    with closing(SpareDatabases(server, template)) as databases:
        yield databases.use


@pytest.fixture
def empty_database(server: str) -> Iterator[Database]:
    """A database without any tables."""
    with create_empty(server) as database:
        yield database


@pytest.fixture
def database(create_migrated: Created) -> Iterator[Database]:
    """A migrated database. After the test, its counters, rows and ledger must agree."""
    with create_migrated() as database:
        yield database
        database.check_books()


@pytest.fixture
def unbalanced_database(create_migrated: Created) -> Iterator[Database]:
    """A migrated database for a test after which counters, rows and ledger may disagree."""
    with create_migrated() as database:
        yield database


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    """A function that starts a service on a database; all are stopped after the test.

    With ``sweeps=False`` the sweeper sleeps for an hour, so that expired holds are expired only
    by other requests. Further arguments are settings.
    """
    running: list[RunningService] = []

    def start(database: Database, *, sweeps: bool = True, **settings: Any) -> RunningService:
        monkeypatch.setattr(limits, "SWEEP_INTERVAL_SECONDS", 0.05 if sweeps else 3600)
        service = RunningService(database, settings_for_tests(**settings))
        service.start()
        running.append(service)
        return service

    yield start
    for service in running:
        service.stop()


@pytest.fixture
def service(database: Database, start: Starter) -> RunningService:
    """A running service for one test, whose sweeper sleeps."""
    return start(database, sweeps=False)


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    """A client of the fixture ``service``."""
    with service.client() as client:
        yield client


@pytest.fixture
def folder() -> Iterator[Path]:
    """A DATA_DIR for one test, which every account may enter."""
    with TemporaryFolder.create("test", TMP) as folder:
        folder.path.chmod(0o755)
        yield folder.path


@pytest.fixture
def unused_port() -> int:
    """A free port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])
