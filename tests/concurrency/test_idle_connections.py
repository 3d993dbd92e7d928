"""Connections that the server has closed cost the next requests nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from service import limits
from service.database.grants import grant
from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.settings import resource
from tests.support.client import Client
from tests.support.database import SERVICE_ROLE, Database, skip_if_pooled
from tests.support.services import Starter
from tests.support.streams import watch_event
from tests.support.waiting import at_once, wait_until

SERVICE = "application_name = 'holdfast' and datname = current_database()"
Call = Callable[[], httpx2.Response]


def terminate(database: Database) -> None:
    """End all connections of the service, as an administrator or a firewall does."""
    database.psql(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where {SERVICE}")


def wait_until_ended(database: Database) -> None:
    """Wait until PostgreSQL has ended all connections of the service, here by its timeout."""
    count = f"select count(*) from pg_stat_activity where {SERVICE}"
    wait_until(lambda: database.psql(count) == ["0"])


@contextmanager
def outage(database: Database) -> Iterator[None]:
    """End all connections of the service, and let it open no others while the block runs."""
    database.psql(f"alter role {SERVICE_ROLE} nologin")
    try:
        terminate(database)
        yield
    finally:
        database.psql(f"alter role {SERVICE_ROLE} login")


def eight_requests_to_each_pool(client: Client, event: str, ticket: str) -> set[int]:
    """Send eight requests at once for each pool, all together, and return their statuses."""
    calls: dict[str, Call] = {
        "writes": lambda: client.reserve(event),
        "reads": lambda: client.find_ticket(ticket, "alice"),
        "lists": lambda: client.get("/events"),
        "audits": lambda: client.check_event(event),
        "watching": lambda: client.get("/health"),
    }
    responses = at_once(*[call for call in calls.values() for _ in range(8)])
    return {response.status_code for response in responses}


@skip_if_pooled("the pooler has connections of its own")
@pytest.mark.parametrize(("end_connections", "rounds"), [(terminate, 8), (wait_until_ended, 3)])
def test_a_closed_idle_connection_costs_no_request_a_refusal(
    database: Database, start: Starter, end_connections: Callable[[Database], None], rounds: int
) -> None:
    if end_connections is wait_until_ended:
        name = database.psql("select current_database()")[0]
        database.psql(f"alter database {name} set idle_session_timeout = '2s'")
    service = start(database, sweeps=False)
    with service.client() as client:
        event = client.create_event(tickets=1000)
        (ticket,) = client.hold(event)
        for _ in range(rounds):
            assert eight_requests_to_each_pool(client, event, ticket) == {200, 201}
            end_connections(database)


@skip_if_pooled("the pooler has connections of its own")
def test_requests_after_an_outage_are_not_refused(database: Database, start: Starter) -> None:
    service = start(database, sweeps=False)
    with service.client() as client:
        event = client.create_event(tickets=1000)
        (ticket,) = client.hold(event)
        for _ in range(3):
            assert eight_requests_to_each_pool(client, event, ticket) == {200, 201}
            with outage(database):
                # The pool tries to connect, and fails, in the first second and after it.
                lists = at_once(*[lambda: client.get("/events")] * 8)
                assert {response.status_code for response in lists} == {503}
                time.sleep(limits.POOL_SECONDS / 2)


@pytest.mark.slow
def test_requests_after_a_restart_of_the_server_are_not_refused(
    folder: Path, start: Starter
) -> None:
    statements = load_statements(resource("sql"))
    with EmbeddedPostgres(folder) as postgres:
        assert postgres.dsn is not None
        migrate(postgres.dsn, statements)
        database = Database(postgres.dsn)
        database.psql(f"create role {SERVICE_ROLE} login")
        grant(postgres.dsn, statements, SERVICE_ROLE)
        service = start(database)
        with service.client() as client:
            event = client.create_event(tickets=1000)
            (ticket,) = client.hold(event)
            for _ in range(8):
                assert eight_requests_to_each_pool(client, event, ticket) == {200, 201}
                postgres.stop()
                assert eight_requests_to_each_pool(client, event, ticket) == {503}
                postgres.start()
        service.stop()


@skip_if_pooled("the pooler has connections of its own")
def test_a_stream_goes_on_after_its_idle_connection_was_closed(
    database: Database, start: Starter
) -> None:
    service = start(database, sweeps=False)
    with service.client() as client:
        event = client.create_event()
        with watch_event(client, event) as stream:
            first = stream.next_message()
            terminate(database)
            assert client.reserve(event).status_code == 201
            assert stream.next_message()["version"] == first["version"] + 1
