"""The pooler: behind one, such as PgBouncer, a connection is ours for one transaction at a time."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from service.database.connections import conninfo, is_pooled
from service.database.statements import load_statements
from service.settings import resource
from tests.support.client import Client, send_crowd
from tests.support.database import PGBOUNCER, Database
from tests.support.services import RunningService, run_service, settings_for_tests
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))
BY_WAY_OF_ONE = pytest.mark.skipif(
    not PGBOUNCER, reason="HOLDFAST_TEST_PGBOUNCER does not name a PgBouncer"
)
ELSEWHERE = {
    "default_transaction_isolation": "repeatable read",
    "TimeZone": "Asia/Kathmandu",
    "statement_timeout": "0",
}
"""What a database may be set to, when we can say nothing for a whole connection."""


@pytest.fixture
def urls(database: Database) -> Iterator[list[str]]:
    """Two services that keep to what holds behind a pooler, on a database of another mind."""
    name = database.psql("select current_database()")[0]
    for setting, value in ELSEWHERE.items():
        database.psql(f"alter database {name} set {setting} = '{value}'")
    with ExitStack() as stack:
        services = [RunningService(database, settings_for_tests(), pooled=True) for _ in range(2)]
        for service in services:
            service.start()
            stack.callback(service.stop)
        yield [service.url for service in services]


@pytest.fixture
def client(urls: list[str]) -> Iterator[Client]:
    """A client of one of them."""
    with Client(base_url=urls[0], timeout=10) as client:
        yield client


def undone_and_tried_again(client: Client) -> list[str]:
    """Return the count of the transactions that PostgreSQL asked to be tried again."""
    return re.findall(
        r'holdfast_batches_failed_total{reason="40"} (.*)', client.get("/metrics").text
    )


def holdfast(database: Database, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would, on the database as the service reaches it."""
    return subprocess.run(
        [sys.executable, "-m", "service", command],
        env={**os.environ, "DATABASE_URL": database.service_dsn},
        capture_output=True,
        text=True,
        check=False,
    )


def test_postgresql_itself_is_no_pooler(database: Database) -> None:
    with psycopg.connect(database.dsn) as connection:
        assert not is_pooled(connection, STATEMENTS)


def test_without_a_setting_of_ours_a_crowd_gets_what_there_is(
    client: Client, urls: list[str]
) -> None:
    event = client.create_event(tickets=100)
    answers = send_crowd(urls, event, people=600, connections=100)
    assert answers == {(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 500}


def test_without_a_setting_of_ours_whoever_waited_for_a_lock_reads_what_is_new(
    database: Database, client: Client
) -> None:
    event = client.create_event()
    before = undone_and_tried_again(client)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event) as rival:
            waiting = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            rival.execute("update events set name = 'Closing night' where id = %s", [event])
        assert waiting.result().status_code == 201
    # Under REPEATABLE READ it could not be done in that transaction any more: 40001.
    assert undone_and_tried_again(client) == before


def test_without_a_setting_of_ours_times_are_told_in_utc(client: Client) -> None:
    event = client.create_event(date="2030-01-01T20:00:00+01:00")
    assert client.find_event(event)["date"] == "2030-01-01T19:00:00Z"
    (ticket,) = client.hold(event)
    assert client.find_ticket(ticket).json()["expiresAt"].endswith("Z")
    assert client.list_ledger(event).json()["data"][0]["recordedAt"].endswith("Z")


def test_without_a_setting_of_ours_a_read_has_its_bound(database: Database, client: Client) -> None:
    event = client.create_event()
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with database.connect() as rival:
        rival.execute("lock table events in access exclusive mode")
        assert client.get(f"/events/{event}").status_code == 503
        wait_until(lambda: database.psql(waits) == ["0"])
    assert client.find_event(event)["id"] == event


def test_what_a_transaction_is_told_is_gone_with_it(database: Database) -> None:
    with psycopg.connect(conninfo(database.dsn, pooled=True), autocommit=True) as connection:
        asked = {"lock_timeout": "1 s", "statement_timeout": "1 s"}
        connection.execute(STATEMENTS["limit_waits"].query, asked)
        assert connection.execute("show lock_timeout").fetchone() == ("0",)


@BY_WAY_OF_ONE
def test_a_pooler_is_noticed(database: Database) -> None:
    with psycopg.connect(conninfo(database.service_dsn, pooled=True)) as connection:
        assert is_pooled(connection, STATEMENTS)
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=100)
        answers = send_crowd([str(client.base_url)], event, people=500, connections=50)
        assert answers == {(201, ""): 100, (409, "TICKETS_SOLD_OUT"): 400}


@BY_WAY_OF_ONE
def test_a_date_style_that_cannot_be_read_is_refused(database: Database) -> None:
    name = database.psql("select current_database()")[0]
    database.psql(f"alter database {name} set DateStyle = 'SQL, DMY'")
    done = holdfast(database, "serve")
    assert done.returncode == 1
    assert "DateStyle is SQL, DMY, which cannot be set through a pooler" in done.stderr


@BY_WAY_OF_ONE
def test_an_audit_goes_by_way_of_a_pooler(database: Database, client: Client) -> None:
    client.hold(client.create_event())
    done = holdfast(database, "audit")
    assert done.returncode == 0, done.stderr


@BY_WAY_OF_ONE
def test_nobody_migrates_by_way_of_a_pooler(database: Database) -> None:
    done = holdfast(database, "migrate")
    assert done.returncode == 1
    assert "DATABASE_URL is the address of a pooler" in done.stderr
