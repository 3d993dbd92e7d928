"""The service on Citus: it notices it, sells in a schema that moves, and needs no owner's rights.

These tests run only there. The other modules of ``tests.support.citus.MODULES`` also run elsewhere.
"""

import psycopg
import pytest

from service.database.grants import grant
from service.database.statements import load_statements
from service.settings import resource
from tests.support.citus import CITUS, MODULES, Schema, create_schema
from tests.support.client import Client
from tests.support.services import run_service

STATEMENTS = load_statements(resource("sql"))

pytestmark = [
    pytest.mark.citus,
    pytest.mark.skipif(
        not CITUS,
        reason=f"HOLDFAST_TEST_CITUS is not set: nothing of {', '.join(MODULES)} runs on Citus",
    ),
]


def worker_of(schema: Schema) -> str:
    """Return the port of the worker that has a schema."""
    (port,) = schema.psql(
        "select distinct nodeport from citus_shards "
        f"where table_name::text in ('events', '{schema.name}.events')"
    )
    return port


def sell(client: Client) -> None:
    """Reserve, pay, cancel and refund tickets of a new event."""
    event = client.create_event(tickets=3)
    paid, cancelled = client.hold(event, quantity=2)
    assert client.pay(paid).status_code == 200
    assert client.cancel(cancelled).status_code == 200
    assert client.refund(paid).status_code == 200
    assert client.find_event(event)["availableTickets"] == 3


def test_two_schemas_sell_an_event_of_the_same_name_independently() -> None:
    with create_schema(is_migrated=True) as first, create_schema(is_migrated=True) as second:
        for schema in (first, second):
            # Two workers, which learn from their parent that it is Citus.
            with run_service(schema, workers=2) as client:
                sell(client)
            schema.check_books()
            assert schema.psql("select count(*) from events") == ["1"]


def test_a_schema_that_moves_to_another_worker_sells_on() -> None:
    with create_schema(is_migrated=True) as schema, run_service(schema) as client:
        event = client.create_event()
        client.hold(event)
        others = schema.psql(
            "select nodename, nodeport from pg_dist_node "
            f"where shouldhaveshards and noderole = 'primary' and nodeport <> {worker_of(schema)}"
        )
        if not others:
            pytest.skip("this Citus has only one worker")
        host, port = others[0].split("|")
        schema.psql(f"select citus_schema_move('{schema.name}', '{host}', {port})")
        assert worker_of(schema) == port
        client.hold(event)
        schema.check_books()


def test_a_role_with_only_the_rights_of_grant_can_sell() -> None:
    with create_schema(is_migrated=True) as schema, psycopg.connect(CITUS) as owner:
        owner.autocommit = True
        role = schema.name
        owner.execute(f"create role {role} login".encode())
        try:
            grant(schema.dsn, STATEMENTS, role)
            with run_service(Schema(f"{schema.dsn}&user={role}")) as client:
                sell(client)
            process = schema.try_psql("delete from ticket_allocations", role=role)
            assert "permission denied" in process.stderr
        finally:
            schema.psql(f"drop owned by {role}; drop role {role}")
