"""Idle connections that the server has closed cost the next requests nothing."""

from collections.abc import Callable

import pytest

from tests.support.database import Database, skip_if_pooled
from tests.support.services import Starter
from tests.support.streams import watch_event
from tests.support.waiting import at_once, wait_until

SERVICE = "application_name = 'holdfast' and datname = current_database()"


def terminate(database: Database) -> None:
    """End all connections of the service, as an administrator or a firewall does."""
    database.psql(f"select pg_terminate_backend(pid) from pg_stat_activity where {SERVICE}")
    wait_until_ended(database)


def wait_until_ended(database: Database) -> None:
    """Wait until PostgreSQL has ended all connections of the service, here by its timeout."""
    count = f"select count(*) from pg_stat_activity where {SERVICE}"
    wait_until(lambda: database.psql(count) == ["0"])


@skip_if_pooled("the pooler has connections of its own")
@pytest.mark.parametrize("end_connections", [terminate, wait_until_ended])
def test_a_closed_idle_connection_costs_no_request_a_refusal(
    database: Database, start: Starter, end_connections: Callable[[Database], None]
) -> None:
    if end_connections is wait_until_ended:
        name = database.psql("select current_database()")[0]
        database.psql(f"alter database {name} set idle_session_timeout = '2s'")
    service = start(database, sweeps=False)
    with service.client() as client:
        event = client.create_event(tickets=1000)
        for _ in range(4):
            reserved = at_once(*[lambda: client.reserve(event)] * 8)
            looked_up = at_once(*[lambda: client.get(f"/events/{event}")] * 8)
            listed = at_once(*[lambda: client.get("/events")] * 4)
            statuses = {response.status_code for response in (*reserved, *looked_up, *listed)}
            assert statuses == {201, 200}
            end_connections(database)


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
