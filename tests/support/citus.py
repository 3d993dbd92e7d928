"""Tests on Citus: a schema on a coordinator for each test, instead of a database.

``HOLDFAST_TEST_CITUS=postgresql://… pytest -m citus`` runs the modules below there, and no others.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.settings import resource
from tests.support.database import Database
from tests.support.waiting import wait_until

# The URL of a coordinator with schema-based sharding. If it is not set, no test runs on Citus.
CITUS = os.environ.get("HOLDFAST_TEST_CITUS", "")

# The modules below ``tests`` that run on Citus.
MODULES = (
    "rules/test_*.py",
    "concurrency/test_crowd.py",
    "concurrency/test_keys_across_processes.py",
    "operations/test_audit.py",
    "operations/test_citus.py",
    "operations/test_migrations.py",
)

SCHEMA_NUMBERS = itertools.count(1)


class Schema(Database):
    """The schema of one test, which Citus keeps on one worker."""

    is_on_citus = True

    @property
    def name(self) -> str:
        """Its name, with which the URL sets search_path."""
        return self.dsn.rpartition("%3D")[2]

    @property
    def service_dsn(self) -> str:
        """Connects as the owner: a role with fewer rights has a test of its own."""
        return self.dsn

    def wait_until_blocked(self, count: int = 1, application: str = "holdfast") -> None:
        """Wait until at least ``count`` connections wait for a lock, which is on the worker."""
        waiting = (
            "select count(*) from citus_stat_activity as on_worker "
            "inner join citus_stat_activity as on_coordinator using (global_pid) "
            "where on_worker.is_worker_query and on_worker.wait_event_type = 'Lock' "
            f"and on_worker.query like '%{self.name}.%' and not on_coordinator.is_worker_query "
            f"and on_coordinator.application_name = '{application}'"
        )
        wait_until(
            lambda: int(self.psql(waiting)[0]) >= count,
            f"no connection of {application!r} waits for a lock: see sql/lock_events.sql",
        )


def runs_on_citus(path: Path) -> bool:
    """Whether the tests of a module run on Citus."""
    return any(path.match(f"tests/{module}") for module in MODULES)


@contextmanager
def create_schema(*, is_migrated: bool) -> Iterator[Schema]:
    """Create a schema, with all migrations or without tables, and drop it afterwards."""
    # The processes of pytest-xdist share the coordinator.
    name = f"test_{os.getpid()}_{next(SCHEMA_NUMBERS)}"
    dsn = f"{CITUS}{'&' if '?' in CITUS else '?'}options=-csearch_path%3D{name}"
    with psycopg.connect(CITUS, autocommit=True) as connection:
        connection.execute(f"create schema {name}".encode())
        try:
            if is_migrated:
                migrate(dsn, load_statements(resource("sql")))
            yield Schema(dsn)
        finally:
            connection.execute(f"drop schema {name} cascade".encode())


def not_on_citus(reason: str) -> pytest.MarkDecorator:
    """Return the mark of a test that cannot run in a schema on Citus."""
    return pytest.mark.skipif(bool(CITUS), reason=f"not on Citus: {reason}")
