"""Networks that fail silently: connections over which nothing arrives, and nothing is refused."""

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
from service.settings import resource
from tests.support.database import SERVICE_ROLE, skip_if_pooled
from tests.support.network import NEEDS_NAMESPACES, RemotePostgres, run_remote_postgres
from tests.support.waiting import wait_until

STATEMENTS = load_statements(resource("sql"))


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
