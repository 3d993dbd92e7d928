"""Citus: a schema of each test's own on a coordinator, in place of a database.

`HOLDFAST_TEST_CITUS=postgresql://… pytest -m citus` runs MODULES there and nothing else.
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

CITUS = os.environ.get("HOLDFAST_TEST_CITUS", "")
"""The URL of a coordinator whose workers may hold schemas."""

MODULES = (
    "rules/test_*.py",
    "concurrency/test_crowd.py",
    "concurrency/test_keys_across_processes.py",
    "operations/test_audit.py",
    "operations/test_citus.py",
    "operations/test_migrations.py",
)
"""What runs on Citus, below ``tests``."""

NUMBERS = itertools.count(1)


class Schema(Database):
    """A schema of one test's own, which lives on a worker."""

    is_citus = True

    @property
    def name(self) -> str:
        """Its name, which `search_path` in its URL says."""
        return self.dsn.rpartition("%3D")[2]

    @property
    def service_dsn(self) -> str:
        """As the role of the coordinator's URL, which owns all that is in it."""
        return self.dsn

    def wait_until_blocked(self, how_many: int = 1, of: str = "holdfast") -> None:
        """Wait until so many connections wait for a lock, on the worker that has the schema."""
        waiting = (
            "select count(*) from citus_stat_activity as there "
            "inner join citus_stat_activity as here using (global_pid) "
            "where there.is_worker_query and there.wait_event_type = 'Lock' "
            f"and there.query like '%{self.name}.%' "
            f"and not here.is_worker_query and here.application_name = '{of}'"
        )
        wait_until(
            lambda: int(self.psql(waiting)[0]) >= how_many,
            f"{of} does not wait for a lock: is the event still locked (sql/lock_events.sql)?",
        )


def runs_on_citus(path: Path) -> bool:
    """Whether the tests of a module run on Citus."""
    return any(path.match(f"tests/{module}") for module in MODULES)


@contextmanager
def schema_on_citus(*, migrated: bool) -> Iterator[Schema]:
    """Create a schema, which is a cell, for as long as the block runs."""
    # Several processes test at once on one coordinator.
    name = f"test_{os.getpid()}_{next(NUMBERS)}"
    dsn = f"{CITUS}{'&' if '?' in CITUS else '?'}options=-csearch_path%3D{name}"
    with psycopg.connect(CITUS, autocommit=True) as connection:
        connection.execute(f"create schema {name}".encode())
        try:
            if migrated:
                migrate(dsn, load_statements(resource("sql")))
            yield Schema(dsn)
        finally:
            connection.execute(f"drop schema {name} cascade".encode())


def not_on_citus(why: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs what a schema on Citus is not."""
    return pytest.mark.skipif(bool(CITUS), reason=f"not on Citus: {why}")
