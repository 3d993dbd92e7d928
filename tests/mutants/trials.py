"""Trials: run the tests of a mutant in a copy of the tree."""

import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from service.embedded.parent import stop_with_parent
from service.embedded.postgres import EmbeddedPostgres
from service.temporary import TMP, TemporaryFolder
from tests.mutants.catalog import Mutant
from tests.support.database import SERVICE_ROLE, create_template
from tests.support.paths import ROOT

# What a copy consists of. It also contains the caches of Python, which save a second.
COPIED = ("service", "sql", "migrations", "tests", "pyproject.toml")
# The longest that the tests of a mutant may take: with it, some wait for what never happens.
LONGEST_SECONDS = 90
# The same for the tests of all mutants, in an unchanged copy.
LONGEST_WHOLE_SECONDS = 3600

# killed: a test failed. survived: all passed. did not start: no test failed, but collecting one or
# preparing it did, so the change is no mutant but a broken file. hung: the tests took too long.
Result = Literal["killed", "survived", "did not start", "hung"]


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of running tests in a copy."""

    result: Result
    seconds: float
    # The end of pytest's output.
    output: str


@contextmanager
def run_server() -> Iterator[str]:
    """Run a PostgreSQL with the template of the tests, made from this tree; yield its URL."""
    with TemporaryFolder.create("mutants", TMP) as folder:
        folder.path.chmod(0o755)
        with EmbeddedPostgres(folder.path) as postgres:
            assert postgres.dsn is not None
            create_template(postgres.dsn)
            yield postgres.dsn


def is_clean(server: str) -> bool:
    """Whether tests have left a server as they found it."""
    try:
        with psycopg.connect(server) as connection:
            row = connection.execute(
                "select (select count(*) from pg_database where datname ~ '^test_')"
                " + (select count(*) from pg_file_settings where sourcefile ~ 'auto.conf')"
                " + (select count(*) from pg_roles where rolname = %s and not rolcanlogin)",
                [SERVICE_ROLE],
            ).fetchone()
    except psycopg.OperationalError:
        return False
    return row == (0,)


def try_mutant(mutant: Mutant, server: str) -> Trial:
    """Run the tests of a mutant in a copy of the tree that has its change."""
    return run_tests(mutant.tests, "" if mutant.changes_template else server, mutant)


def run_tests(tests: Sequence[str], server: str = "", mutant: Mutant | None = None) -> Trial:
    """Run tests in a copy of the tree, and stop at the first failure.

    Args:
        tests: files or node IDs.
        server: the URL of a PostgreSQL with the template; '' to start one for these tests alone.
        mutant: the change of the copy; None for an unchanged copy.
    """
    with TemporaryFolder.create("mutant") as folder:
        copy = folder.path / "copy"
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, copy / name)
        if mutant is not None:
            mutant.mutate(copy)
        seconds = LONGEST_SECONDS if mutant else LONGEST_WHOLE_SECONDS
        return _run_pytest(copy, tests, server, folder.path / "report.xml", seconds)


def _run_pytest(
    copy: Path, tests: Sequence[str], server: str, report: Path, seconds: float
) -> Trial:
    started = time.monotonic()
    output = report.with_suffix(".txt")
    options = ["-n", "0", "-x", "-q", "--tb=short", f"--junitxml={report}"]
    with output.open("wb") as file:
        # `-m` puts the working directory first on sys.path, so the copy's `service` is imported,
        # by the tests and by the processes that they start.
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy,
            env={**os.environ, "HOLDFAST_TEST_SERVER": server},
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=stop_with_parent(os.getpid(), signal.SIGKILL),
        )
    try:
        result = _read_result(process.wait(seconds), report)
    except subprocess.TimeoutExpired:
        result = "hung"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Trial(result, time.monotonic() - started, output.read_text(errors="replace")[-2000:])


def _read_result(exit_code: int, report: Path) -> Result:
    """Tell a failed test from one that could not be collected or prepared."""
    if exit_code == 0:
        return "survived"
    if exit_code != 1:
        return "did not start"
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has written it
        errors = [error.get("message", "") for error in case.iter("error")]
        # After a test its database is audited, so an error then is a failure, too.
        if case.find("failure") is not None or any("on teardown" in error for error in errors):
            return "killed"
    return "did not start"
