"""Citus: the service finds it by itself, and a cell is a schema on one worker."""

import psycopg
import pytest

from service.database.grants import grant
from service.database.statements import load_statements
from service.settings import resource
from tests.support.citus import CITUS, MODULES, Schema, schema_on_citus
from tests.support.client import Client
from tests.support.services import serving

STATEMENTS = load_statements(resource("sql"))

pytestmark = [
    pytest.mark.citus,
    pytest.mark.skipif(
        not CITUS,
        reason=f"HOLDFAST_TEST_CITUS names no coordinator: {', '.join(MODULES)} run on PostgreSQL",
    ),
]


def node_of(cell: Schema) -> str:
    """Return the port of the worker that has a schema."""
    (node,) = cell.psql(
        "select distinct nodeport from citus_shards "
        f"where table_name::text in ('events', '{cell.name}.events')"
    )
    return node


def buy(client: Client) -> None:
    """Reserve, pay, cancel and refund."""
    event = client.create_event(tickets=3)
    paid, cancelled = client.hold(event, quantity=2)
    assert client.pay(paid).status_code == 200
    assert client.cancel(cancelled).status_code == 200
    assert client.refund(paid).status_code == 200
    assert client.event(event)["availableTickets"] == 3


def test_two_cells_sell_the_same_event_and_know_nothing_of_each_other() -> None:
    with schema_on_citus(migrated=True) as one, schema_on_citus(migrated=True) as other:
        for cell in (one, other):
            # Two workers, to whom the parent says that it is Citus.
            with serving(cell, workers=2) as client:
                buy(client)
            cell.adds_up()
            assert cell.psql("select count(*) from events") == ["1"]


def test_a_cell_moves_to_another_worker_and_sells_on() -> None:
    with schema_on_citus(migrated=True) as cell, serving(cell) as client:
        event = client.create_event()
        client.hold(event)
        here = node_of(cell)
        others = cell.psql(
            "select nodename, nodeport from pg_dist_node "
            f"where shouldhaveshards and nodeport <> {here} and noderole = 'primary'"
        )
        if not others:
            pytest.skip("this Citus has one worker: there is nowhere to move to")
        host, port = others[0].split("|")
        cell.psql(f"select citus_schema_move('{cell.name}', '{host}', {port})")
        assert node_of(cell) == port
        client.hold(event)
        cell.adds_up()


def test_a_role_that_was_granted_what_the_service_needs_can_sell() -> None:
    with schema_on_citus(migrated=True) as cell, psycopg.connect(CITUS, autocommit=True) as owner:
        role = cell.name
        owner.execute(f"create role {role} login".encode())
        try:
            grant(cell.dsn, STATEMENTS, role)
            with serving(Schema(f"{cell.dsn}&user={role}")) as client:
                buy(client)
            refused = cell.try_psql("delete from ticket_allocations", role=role)
            assert "permission denied" in refused.stderr
        finally:
            cell.psql(f"drop owned by {role}; drop role {role}")
