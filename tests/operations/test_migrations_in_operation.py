"""Migrating in operation: concurrently, killed halfway, and during a sale."""

import hashlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from yoyo.migrations import MigrationStep

from service.database.migrations import migrate, migration_names
from service.database.statements import load_statements
from service.limits import DEADLINE_SECONDS
from service.settings import resource
from tests.support.database import Database, create_database
from tests.support.schema import SCHEMA
from tests.support.services import Starter
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))
FOLDER = resource("migrations")
NAMES = migration_names()
CHECKSUMS = Path(__file__).parent / "migrations.sha256"


def read_migration(name: str) -> str:
    return (FOLDER / f"{name}.sql").read_text()


def header(name: str) -> str:
    """Return the leading comment without the comment signs."""
    lines = read_migration(name).splitlines()
    ends = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").strip() for line in lines[:ends])


def test_twenty_concurrent_migrations_all_succeed(empty_database: Database) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "service", "migrate"],
            env={**os.environ, "DATABASE_URL": empty_database.dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    results = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert {code for _, _, code in results} == {0}, results
    assert sum("applied" in out for out, _, _ in results) == 1
    assert sum(out == "nothing to apply\n" for out, _, _ in results) == 19


def migrate_and_kill(dsn: str, statement: int) -> bool:
    """Migrate in a process that is killed before a statement; return whether it was killed."""

    def run() -> None:
        number = 0
        execute = MigrationStep._execute

        def execute_or_die(*arguments: object) -> None:
            nonlocal number
            number += 1
            if number == statement:
                os.kill(os.getpid(), signal.SIGKILL)
            execute(*arguments)

        MigrationStep._execute = execute_or_die
        migrate(dsn, STATEMENTS)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def test_a_migration_killed_at_each_statement_can_be_completed(
    database: Database, empty_database: Database
) -> None:
    # Each run on the same database gets one statement further and is killed there.
    kills = 0
    for statement in range(1, 200):
        if not migrate_and_kill(empty_database.dsn, statement):
            break
        kills += 1
    assert kills > 5
    assert migrate(empty_database.dsn, STATEMENTS) == []
    assert empty_database.psql(SCHEMA) == database.psql(SCHEMA)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_first_migration_killed_at_any_statement_completes(
    server: str, database: Database, step: int
) -> None:
    schema = database.psql(SCHEMA)
    for statement in range(1, 200, step):
        with create_database(server) as new_database:
            killed = migrate_and_kill(new_database.dsn, statement)
            migrate(new_database.dsn, STATEMENTS)
            assert new_database.psql(SCHEMA) == schema, f"killed before statement {statement}"
        if not killed:
            break
    assert statement > 50


def test_a_published_migration_is_not_edited() -> None:
    """An edited file goes unnoticed by yoyo, which identifies a migration by its name.

    ``sha256sum migrations/NNNN_*.sql >> tests/operations/migrations.sha256`` adds a new one.
    """
    lines = [line.split("  migrations/") for line in CHECKSUMS.read_text().splitlines()]
    checksums = {name: checksum for checksum, name in lines}
    files = {file.name: file for file in FOLDER.glob("*.sql")}
    command = "sha256sum migrations/NNNN_*.sql >> tests/operations/migrations.sha256"
    assert set(checksums) == set(files), f"for a new migration, run {command}"
    changed = [
        name
        for name, file in files.items()
        if hashlib.sha256(file.read_bytes()).hexdigest() != checksums[name]
    ]
    assert changed == []


@pytest.mark.parametrize("name", NAMES)
def test_a_migration_says_whether_it_may_run_during_a_sale(name: str) -> None:
    assert re.search(
        r"^Runs while the version before it serves: (yes|no|there is)", header(name), re.M
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_migration_has_a_rollback_that_says_what_it_loses(name: str) -> None:
    assert header(f"{name}.rollback").startswith("Loses ")


@pytest.mark.parametrize("name", [*NAMES, *[f"{name}.rollback" for name in NAMES]])
def test_a_migration_limits_how_long_it_waits_for_locks(name: str) -> None:
    first, second = [
        line for line in read_migration(name).splitlines() if line and not line.startswith("--")
    ][:2]
    outside = "transactional: false" in read_migration(name.removesuffix(".rollback"))
    # A concurrent index build waits for old snapshots, but nothing queues behind it.
    assert (
        first
        == f"set {'' if outside else 'local '}lock_timeout = '{'10min' if outside else '2s'}';"
    )
    assert re.fullmatch(r"set (local )?statement_timeout = '\d+(min|h)';", second)


def squawk(*arguments: str, files: list[str]) -> None:
    process = subprocess.run(
        [
            str(Path(sys.executable).parent / "squawk"),
            *("--pg-version=15.0", "--reporter=gcc", *arguments),
            *[str(FOLDER / f"{name}.sql") for name in files],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_squawk_accepts_the_migrations() -> None:
    in_a_transaction = [
        name for name in NAMES if "transactional: false" not in read_migration(name)
    ]
    # The specification has integer and varchar.
    types = "--exclude=prefer-bigint-over-int"
    squawk("--assume-in-transaction", types, files=in_a_transaction)
    # An existing index may be invalid after a kill, so the migrations drop and create indexes
    # and constraints instead of using `if not exists`.
    exceptions = "--exclude=prefer-robust-stmts,ban-drop-constraint"
    squawk(exceptions, files=[name for name in NAMES if name not in in_a_transaction])


def test_squawk_accepts_the_rollbacks() -> None:
    # A rollback drops things, and recreates an enum without two of its values.
    bans = ["table", "column", "type", "function", "constraint", "default"]
    recreated = ["renaming-object", "changing-column-type", "constraint-missing-not-valid"]
    rules = [f"ban-drop-{ban}" for ban in bans] + recreated + ["prefer-bigint-over-int"]
    in_a_transaction = [
        name for name in NAMES if "transactional: false" not in read_migration(name)
    ]
    squawk(
        "--assume-in-transaction",
        f"--exclude={','.join(rules)}",
        files=[f"{name}.rollback" for name in in_a_transaction],
    )
    squawk(
        "--exclude=ban-drop-constraint,prefer-robust-stmts",
        files=[f"{name}.rollback" for name in NAMES if name not in in_a_transaction],
    )


def test_a_migration_during_a_sale_loses_nothing(database: Database, start: Starter) -> None:
    """Drop and recreate the indexes that a sale can do without while a crowd buys."""
    indexes = ["0010_index_holds", "0003_index_ticket_allocations"]
    service = start(database)
    responses: list[tuple[int, float]] = []
    done = threading.Event()

    def buy(number: int) -> None:
        with service.client() as client:
            while not done.is_set():
                try:
                    response = client.reserve(event, user=f"user-{number}")
                    responses.append((response.status_code, response.elapsed.total_seconds()))
                    if response.status_code == 201:
                        paid = client.pay(response.json()[0]["id"], f"user-{number}")
                        responses.append((paid.status_code, paid.elapsed.total_seconds()))
                except httpx2.TransportError:
                    responses.append((0, 0.0))

    with service.client() as client:
        event = client.create_event(tickets=1_000_000)
        buyers = [threading.Thread(target=buy, args=(number,)) for number in range(20)]
        for buyer in buyers:
            buyer.start()
        try:
            for _ in range(3):
                # Roll these two back alone, although later migrations were applied.
                for name in indexes:
                    database.psql(read_migration(f"{name}.rollback"))
                    database.psql(f"delete from _yoyo_migration where migration_id = '{name}'")
                assert migrate(database.dsn, STATEMENTS) == sorted(indexes)
        finally:
            done.set()
            for buyer in buyers:
                buyer.join()
        sold = client.find_event(event)["allocatedTickets"]
    assert {status for status, _ in responses} <= {200, 201, 503}
    assert max(seconds for _, seconds in responses) < DEADLINE_SECONDS + 1
    assert sold == sum(status == 201 for status, _ in responses) > 0


def test_a_concurrent_index_build_waits_for_an_old_snapshot(database: Database) -> None:
    """A concurrent build waits until every older snapshot, of any table, is gone."""
    database.psql(read_migration("0010_index_holds.rollback"))
    database.psql("delete from _yoyo_migration where migration_id = '0010_index_holds'")
    waits = (
        "select count(*) from pg_stat_activity where query ~ '^create index concurrently' "
        "and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '2.5 s'"
    )
    with ThreadPoolExecutor(1) as pool, database.connect() as stranger:
        stranger.execute("set transaction isolation level repeatable read")
        stranger.execute("select count(*) from _yoyo_version")
        migrating = pool.submit(migrate, database.dsn, STATEMENTS)
        # Longer than the lock_timeout of every other migration.
        wait_until(lambda: database.psql(waits) == ["1"])
        stranger.rollback()
        assert migrating.result() == ["0010_index_holds"]
    assert database.psql("select count(*) from pg_index where not indisvalid") == ["0"]
