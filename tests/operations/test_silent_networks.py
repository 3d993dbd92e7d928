"""Networks that fail silently: connections over which nothing arrives, and nothing is refused."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from service.database.connections import conninfo
from service.database.grants import grant
from service.database.migrations import migrate
from service.database.startup_checks import check_database
from service.database.statements import load_statements
from service.limits import WORKER_CONNECTIONS
from service.settings import resource
from tests.support.client import Client
from tests.support.database import SERVICE_ROLE, Database, skip_if_pooled
from tests.support.lossy_proxy import proxy_database
from tests.support.network import NEEDS_NAMESPACES, RemotePostgres, run_remote_postgres
from tests.support.services import RunningService, Starter
from tests.support.streams import watch_event
from tests.support.waiting import at_once, wait_until

STATEMENTS = load_statements(resource("sql"))
POOLS = ("reads", "writes", "watching", "lists", "audits")


@pytest.fixture
def remote(folder: Path) -> Iterator[RemotePostgres]:
    """A migrated PostgreSQL behind a cable."""
    with run_remote_postgres(folder) as server:
        migrate(server.local.dsn, STATEMENTS)
        server.local.psql(f"create role {SERVICE_ROLE} login")
        grant(server.local.dsn, STATEMENTS, SERVICE_ROLE)
        yield server


def send_part(connection: psycopg.Connection, *statements: tuple[bytes, list[bytes]]) -> None:
    """Send the first statements of a batch, and let the server send their results."""
    pgconn = connection.pgconn
    for statement, values in statements:
        pgconn.send_query_params(statement, values)
    pgconn.send_flush_request()
    while pgconn.flush():
        pass


@NEEDS_NAMESPACES
@skip_if_pooled("the cable leads to PostgreSQL itself")
@pytest.mark.parametrize("is_answering", [False, True])
def test_half_a_batch_locks_its_event_for_seconds_only(
    remote: RemotePostgres, is_answering: bool
) -> None:
    """PostgreSQL waits for the rest of the batch, and no timeout of a statement runs."""
    event = remote.local.insert_event(10)
    waiting = (
        "select count(*) from pg_stat_activity where application_name = 'holdfast' "
        "and state = 'active' and wait_event = 'ClientRead'"
    )
    lock_events = STATEMENTS["lock_events"].numbered
    events = [f"{{{event}}}".encode(), b"{}", b"{}"]
    with closing(psycopg.connect(conninfo(remote.database.dsn), autocommit=True)) as connection:
        connection.pgconn.enter_pipeline_mode()
        send_part(connection, (b"begin", []), (lock_events, events))
        if is_answering:
            # What the server sends is not acknowledged, and until it is, no keep-alive is sent.
            send_part(connection, (b"select pg_sleep(1)", []))
        remote.cut()
        wait_until(lambda: remote.local.psql(waiting) == ["1"])
        wait_until(lambda: remote.count_backends() == 0)
    locked = f"select from events where id = '{event}' for update nowait"
    assert remote.local.try_psql(locked).returncode == 0


@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    ("is_remote", "behind_pooler", "warns"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_the_start_warns_of_a_server_that_is_slow_to_detect_lost_clients(
    remote: RemotePostgres,
    caplog: pytest.LogCaptureFixture,
    is_remote: bool,
    behind_pooler: bool,
    warns: bool,
) -> None:
    """A pooler's connections bring no settings, and those of a Unix socket need none."""
    dsn = (remote.database if is_remote else remote.local).dsn
    with psycopg.connect(conninfo(dsn, behind_pooler=behind_pooler)) as connection:
        check_database(connection, STATEMENTS)
    warning = "PostgreSQL detects a lost client only after 7875 s"
    assert [warning in record.getMessage() for record in caplog.records] == [True] * warns


def count_given_up(client: Client, pool: str) -> float:
    """Return how many connections of a pool the services of this test run have given up."""
    metrics = client.get("/metrics").text
    (count,) = re.findall(
        rf'^holdfast_connections_given_up_total{{pool="{pool}"}} (.*)$', metrics, re.M
    )
    return float(count)


def send_everything(service: RunningService, event: str) -> set[int]:
    """Send requests that use every connection of every pool; return their statuses."""
    with service.client() as client:
        calls = [
            lambda: client.reserve(event),
            lambda: client.get("/tickets", headers={"X-User-Fingerprint": "alice"}),
            lambda: client.get(f"/events/{event}"),
            lambda: client.list_ledger(event, after=1),
            lambda: client.check_event(event),
            lambda: client.get("/health"),
        ]
        return {response.status_code for response in at_once(*calls * 4)}


@pytest.mark.parametrize("holes", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_connections_that_hang_are_replaced(database: Database, start: Starter, holes: int) -> None:
    """A peer that acknowledges everything and answers nothing, as a pooler that hangs."""
    count_backends = (
        "select count(*) from pg_stat_activity "
        "where application_name = 'holdfast' and datname = current_database()"
    )
    with proxy_database(database) as (remote, proxy):
        service = start(remote)
        with service.client() as client:
            event = client.create_event(tickets=1000)
            with watch_event(client, event) as stream:
                stream.next_message()
                given_up = {pool: count_given_up(client, pool) for pool in POOLS}
                for _ in range(holes):
                    wait_until(lambda: send_everything(service, event) <= {200, 201})
                    proxy.silence()
                    assert 503 in send_everything(service, event)
                    wait_until(lambda: send_everything(service, event) <= {200, 201})
                assert stream.read_until(client.find_event(event)["version"])
            for pool in POOLS:
                assert count_given_up(client, pool) >= given_up[pool] + holes
            wait_until(lambda: int(database.psql(count_backends)[0]) <= WORKER_CONNECTIONS)
