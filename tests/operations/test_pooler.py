"""The pooler: with PgBouncer in transaction mode, no setting of a session can be relied on."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from service.database.connections import conninfo, uses_pooler
from service.database.statements import load_statements
from service.settings import resource
from tests.support.client import Client, send_crowd
from tests.support.database import PGBOUNCER, Database
from tests.support.services import RunningService, run_service, settings_for_tests
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))
NEEDS_PGBOUNCER = pytest.mark.skipif(
    not PGBOUNCER, reason="HOLDFAST_TEST_PGBOUNCER does not name a PgBouncer"
)
# Settings of the database that the service cannot override for a session behind a pooler.
DATABASE_SETTINGS = {
    "default_transaction_isolation": "repeatable read",
    "TimeZone": "Asia/Kathmandu",
    "statement_timeout": "0",
}


@pytest.fixture
def urls(database: Database) -> Iterator[list[str]]:
    """The URLs of two services in pooler mode, on a database with unfavorable settings."""
    name = database.psql("select current_database()")[0]
    for setting, value in DATABASE_SETTINGS.items():
        database.psql(f"alter database {name} set {setting} = '{value}'")
    with ExitStack() as stack:
        settings = settings_for_tests()
        services = [RunningService(database, settings, behind_pooler=True) for _ in range(2)]
        for service in services:
            service.start()
            stack.callback(service.stop)
        yield [service.url for service in services]


@pytest.fixture
def client(urls: list[str]) -> Iterator[Client]:
    """A client of one of the services."""
    with Client(base_url=urls[0], timeout=10) as client:
        yield client


def retried_transactions(client: Client) -> list[str]:
    """Return the counter of the batches that failed with a serialization failure (class 40)."""
    return re.findall(
        r'holdfast_batches_failed_total{reason="40"} (.*)', client.get("/metrics").text
    )


def holdfast(database: Database, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the database with the URL of the service, through the pooler if any."""
    return subprocess.run(
        [sys.executable, "-m", "service", command],
        env={**os.environ, "DATABASE_URL": database.service_dsn},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_direct_connection_is_not_taken_for_a_pooler(database: Database) -> None:
    with psycopg.connect(database.dsn) as connection:
        assert not uses_pooler(connection, STATEMENTS)


def test_a_crowd_gets_every_ticket_without_session_settings(
    client: Client, urls: list[str]
) -> None:
    event = client.create_event(tickets=100)
    responses = send_crowd(urls, event, people=600, connections=100)
    assert responses == {(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 500}


def test_a_transaction_reads_new_rows_after_waiting_for_a_lock(
    database: Database, client: Client
) -> None:
    event = client.create_event()
    before = retried_transactions(client)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            reserving = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            rival.execute("update events set name = 'Closing night' where id = %s", [event])
        assert reserving.result().status_code == 201
    # Under REPEATABLE READ the transaction would have failed with 40001.
    assert retried_transactions(client) == before


def test_times_are_in_utc_without_session_settings(client: Client) -> None:
    event = client.create_event(date="2030-01-01T20:00:00+01:00")
    assert client.find_event(event)["date"] == "2030-01-01T19:00:00Z"
    (ticket,) = client.hold(event)
    assert client.find_ticket(ticket).json()["expiresAt"].endswith("Z")
    assert client.list_ledger(event).json()["data"][0]["recordedAt"].endswith("Z")


def test_a_read_has_a_timeout_without_session_settings(database: Database, client: Client) -> None:
    event = client.create_event()
    waiting_for_a_lock = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with database.connect() as rival:
        rival.execute("lock table events in access exclusive mode")
        assert client.get(f"/events/{event}").status_code == 503
        wait_until(lambda: database.psql(waiting_for_a_lock) == ["0"])
    assert client.find_event(event)["id"] == event


def test_a_setting_of_a_transaction_ends_with_it(database: Database) -> None:
    with psycopg.connect(conninfo(database.dsn, behind_pooler=True), autocommit=True) as connection:
        parameters = {"lock_timeout": "1 s", "statement_timeout": "1 s"}
        connection.execute(STATEMENTS["limit_waits"].query, parameters)
        for name in parameters:
            assert connection.execute(f"show {name}".encode()).fetchone() == ("0",)


@NEEDS_PGBOUNCER
def test_a_pooler_is_detected(database: Database) -> None:
    with psycopg.connect(conninfo(database.service_dsn, behind_pooler=True)) as connection:
        assert uses_pooler(connection, STATEMENTS)
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=100)
        responses = send_crowd([str(client.base_url)], event, people=500, connections=50)
        assert responses == {(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 400}


@NEEDS_PGBOUNCER
def test_an_unreadable_date_style_is_refused(database: Database) -> None:
    name = database.psql("select current_database()")[0]
    database.psql(f"alter database {name} set DateStyle = 'SQL, DMY'")
    process = holdfast(database, "serve")
    assert process.returncode == 1
    assert "DateStyle is SQL, DMY, which cannot be set through a pooler" in process.stderr


@NEEDS_PGBOUNCER
def test_an_audit_works_through_a_pooler(database: Database, client: Client) -> None:
    client.hold(client.create_event())
    process = holdfast(database, "audit")
    assert process.returncode == 0, process.stderr


@NEEDS_PGBOUNCER
def test_a_migration_through_a_pooler_is_refused(database: Database) -> None:
    process = holdfast(database, "migrate")
    assert process.returncode == 1
    assert "DATABASE_URL is the address of a pooler" in process.stderr
