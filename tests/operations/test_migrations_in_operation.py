"""Migrating in operation: many at once, killed on the way, during a sale."""

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


def text(name: str) -> str:
    return (FOLDER / f"{name}.sql").read_text()


def header(name: str) -> str:
    """Return the leading comment, without the sign of a comment."""
    lines = text(name).splitlines()
    ends = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").strip() for line in lines[:ends])


def test_twenty_at_once_all_succeed(empty_database: Database) -> None:
    several = [
        subprocess.Popen(
            [sys.executable, "-m", "service", "migrate"],
            env={**os.environ, "DATABASE_URL": empty_database.dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    said = [(*one.communicate(timeout=120), one.returncode) for one in several]
    assert {code for _, _, code in said} == {0}, said
    assert sum("applied" in out for out, _, _ in said) == 1
    assert sum(out == "nothing to apply\n" for out, _, _ in said) == 19


def killed_at(dsn: str, statement: int) -> bool:
    """Migrate in a process that is killed before its so-manieth statement; tell if it was."""

    def run() -> None:
        done = 0
        execute = MigrationStep._execute

        def counting(*arguments: object) -> None:
            nonlocal done
            done += 1
            if done == statement:
                os.kill(os.getpid(), signal.SIGKILL)
            execute(*arguments)

        MigrationStep._execute = counting
        migrate(dsn, STATEMENTS)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def test_killed_at_each_of_its_statements_it_completes_when_it_runs_again(
    database: Database, empty_database: Database
) -> None:
    # Killed before the first statement, then before the second, and so on, on one database:
    # each run goes on where the one before it was cut off.
    kills = 0
    for statement in range(1, 200):
        if not killed_at(empty_database.dsn, statement):
            break
        kills += 1
    assert kills > 5
    assert migrate(empty_database.dsn, STATEMENTS) == []
    assert empty_database.psql(SCHEMA) == database.psql(SCHEMA)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_statement_from_nothing_it_completes(
    server: str, database: Database, step: int
) -> None:
    whole = database.psql(SCHEMA)
    for statement in range(1, 200, step):
        with create_database(server) as one:
            killed = killed_at(one.dsn, statement)
            migrate(one.dsn, STATEMENTS)
            assert one.psql(SCHEMA) == whole, f"killed before statement {statement}"
        if not killed:
            break
    assert statement > 50


def test_a_migration_is_not_edited_once_it_has_landed() -> None:
    """An edited file goes unnoticed by yoyo, which knows a migration by its name alone.

    A new migration's line is added with
    ``sha256sum migrations/NNNN_*.sql >> tests/operations/migrations.sha256``.
    """
    lines = [line.split("  migrations/") for line in CHECKSUMS.read_text().splitlines()]
    landed = {name: checksum for checksum, name in lines}
    files = {file.name: file for file in FOLDER.glob("*.sql")}
    new = "sha256sum migrations/NNNN_*.sql >> tests/operations/migrations.sha256, with its number"
    assert set(landed) == set(files), f"of a new one: {new}"
    changed = [
        name
        for name, file in files.items()
        if hashlib.sha256(file.read_bytes()).hexdigest() != landed[name]
    ]
    assert changed == []


@pytest.mark.parametrize("name", NAMES)
def test_a_migration_says_whether_it_may_run_during_a_sale(name: str) -> None:
    assert re.search(
        r"^Runs while the version before it serves: (yes|no|there is)", header(name), re.M
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_rollback_exists_and_says_what_it_loses(name: str) -> None:
    assert header(f"{name}.rollback").startswith("Loses ")


@pytest.mark.parametrize("name", [*NAMES, *[f"{name}.rollback" for name in NAMES]])
def test_a_migration_waits_for_no_lock_for_long(name: str) -> None:
    first, second = [
        line for line in text(name).splitlines() if line and not line.startswith("--")
    ][:2]
    outside = "transactional: false" in text(name.removesuffix(".rollback"))
    # What is built concurrently waits for old snapshots, and nobody queues behind it.
    assert (
        first
        == f"set {'' if outside else 'local '}lock_timeout = '{'10min' if outside else '2s'}';"
    )
    assert re.fullmatch(r"set (local )?statement_timeout = '\d+(min|h)';", second)


def squawk(*arguments: str, files: list[str]) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "squawk"),
            *("--pg-version=15.0", "--reporter=gcc", *arguments),
            *[str(FOLDER / f"{name}.sql") for name in files],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_squawk_passes_what_goes_up() -> None:
    in_a_transaction = [name for name in NAMES if "transactional: false" not in text(name)]
    # The schema document's types are integer and varchar.
    types = "--exclude=prefer-bigint-over-int"
    squawk("--assume-in-transaction", types, files=in_a_transaction)
    # An index that exists may be an invalid one, left by a kill: so it is dropped and built,
    # and a constraint dropped before it is made, and not `if not exists`.
    rebuilt = "--exclude=prefer-robust-stmts,ban-drop-constraint"
    squawk(rebuilt, files=[name for name in NAMES if name not in in_a_transaction])


def test_squawk_passes_what_goes_down() -> None:
    # To drop is what a rollback does, and to make an enum anew without two of its values.
    bans = ["table", "column", "type", "function", "constraint", "default"]
    remade = ["renaming-object", "changing-column-type", "constraint-missing-not-valid"]
    rules = [f"ban-drop-{ban}" for ban in bans] + remade + ["prefer-bigint-over-int"]
    in_a_transaction = [name for name in NAMES if "transactional: false" not in text(name)]
    squawk(
        "--assume-in-transaction",
        f"--exclude={','.join(rules)}",
        files=[f"{name}.rollback" for name in in_a_transaction],
    )
    squawk(
        "--exclude=ban-drop-constraint,prefer-robust-stmts",
        files=[f"{name}.rollback" for name in NAMES if name not in in_a_transaction],
    )


def test_migrating_during_a_sale_loses_nothing(database: Database, start: Starter) -> None:
    """Indexes and settings go and come while a crowd buys: those that we can do without."""
    spared = ["0010_index_holds", "0003_index_ticket_allocations"]
    service = start(database)
    answers: list[tuple[int, float]] = []
    done = threading.Event()

    def buy(number: int) -> None:
        with service.client() as client:
            while not done.is_set():
                try:
                    answer = client.reserve(event, user=f"user-{number}")
                    answers.append((answer.status_code, answer.elapsed.total_seconds()))
                    if answer.status_code == 201:
                        paid = client.pay(answer.json()[0]["id"], f"user-{number}")
                        answers.append((paid.status_code, paid.elapsed.total_seconds()))
                except httpx2.TransportError:
                    answers.append((0, 0.0))

    with service.client() as client:
        event = client.create_event(tickets=1_000_000)
        crowd = [threading.Thread(target=buy, args=(number,)) for number in range(20)]
        for one in crowd:
            one.start()
        try:
            for _ in range(3):
                # Much has been built on them: their files go alone, as if never applied.
                for name in spared:
                    database.psql(text(f"{name}.rollback"))
                    database.psql(f"delete from _yoyo_migration where migration_id = '{name}'")
                assert migrate(database.dsn, STATEMENTS) == sorted(spared)
        finally:
            done.set()
            for one in crowd:
                one.join()
        sold = client.find_event(event)["allocatedTickets"]
    assert {status for status, _ in answers} <= {200, 201, 503}
    assert max(seconds for _, seconds in answers) < DEADLINE_SECONDS + 1
    assert sold == sum(status == 201 for status, _ in answers) > 0


def test_an_index_waits_for_an_old_snapshot_and_is_built(database: Database) -> None:
    """A snapshot of anybody, of any table: building concurrently has to wait until it is gone."""
    database.psql(text("0010_index_holds.rollback"))
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
