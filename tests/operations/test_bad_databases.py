"""Bad databases: what may be wrong for a while, what clients are told, and that it heals."""

import psycopg
import pytest

from service.limits import BATCH_TRIES
from tests.support.client import Client, code
from tests.support.database import Database, not_pooled
from tests.support.services import Starter
from tests.support.waiting import wait_until

FAILING = """
create sequence tries;
grant usage on sequence tries to public;
create function fail() returns trigger language plpgsql as $$
begin
    if nextval('tries') <= {times} then {how}; end if;
    return new;
end $$;
create trigger fails before insert on ticket_allocations for each row execute function fail();
"""


def raising(sqlstate: str) -> str:
    return f"raise exception 'on purpose' using errcode = '{sqlstate}'"


@pytest.fixture
def failing(unbalanced_database: Database, start: Starter):  # type: ignore[no-untyped-def]
    """Makes a service whose reservations fail so many times, and its client."""
    opened: list[Client] = []

    def make(how: str, times: int) -> tuple[Client, Database]:
        unbalanced_database.psql(FAILING.format(how=how, times=times))
        client = start(unbalanced_database, sweeps=False).client()
        opened.append(client)
        return client, unbalanced_database

    yield make
    for client in opened:
        client.close()


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_what_postgresql_asks_to_be_tried_again_is_and_nobody_hears_of_it(  # type: ignore[no-untyped-def]
    failing, sqlstate: str
) -> None:
    client, database = failing(raising(sqlstate), times=BATCH_TRIES - 1)
    assert client.reserve(client.create_event()).status_code == 201
    assert database.psql("select last_value from tries") == [str(BATCH_TRIES)]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (raising("40001"), (503, "BUSY")),
        (raising("40P01"), (503, "BUSY")),
        (raising("53200"), (503, "BUSY")),  # out of memory
        (raising("53100"), (503, "BUSY")),  # disk full
        ("perform pg_sleep(60)", (503, "BUSY")),  # statement_timeout
        (raising("XX000"), (500, "INTERNAL_SERVER_ERROR")),
    ],
)
def test_what_fails_for_long_is_told_within_bounds_and_heals(failing, how: str, told) -> None:  # type: ignore[no-untyped-def]
    client, database = failing(how, times=1_000_000)
    event = client.create_event()
    assert code(client.reserve(event)) == told
    # No more than a few tries of the whole, its event's and its own.
    assert int(database.psql("select last_value from tries")[0]) <= 3 * BATCH_TRIES
    database.psql("drop trigger fails on ticket_allocations")
    assert client.reserve(event).status_code == 201
    assert client.event(event)["allocatedTickets"] == 1


def test_a_server_that_is_read_only_after_a_failover_is_busy_until_it_is_not(
    unbalanced_database: Database, start: Starter
) -> None:
    database = unbalanced_database
    (name,) = database.psql("select current_database()")
    with start(database, sweeps=False).client() as client:
        event = client.create_event()
        database.psql(f"alter database {name} set default_transaction_read_only = on")
        end_connections(database)
        wait_until(lambda: client.get(f"/events/{event}").status_code == 200)
        assert code(client.reserve(event)) == (503, "BUSY")
        assert code(client.post("/events", json=EVENT)) == (503, "BUSY")
        database.psql(
            "set default_transaction_read_only = off;"
            f"alter database {name} reset default_transaction_read_only"
        )
        end_connections(database)
        wait_until(lambda: client.reserve(event).status_code == 201)


@not_pooled("it says so as if a connection had broken, and then nobody knows")
def test_a_server_without_a_connection_to_spare_is_busy_until_it_has_one(
    unbalanced_database: Database, start: Starter
) -> None:
    database = unbalanced_database
    (name,) = database.psql("select current_database()")
    with start(database, sweeps=False).client() as client:
        event = client.create_event()
        database.psql(f"alter database {name} connection limit 0")
        end_connections(database)
        assert code(client.reserve(event)) == (503, "BUSY")
        assert client.get(f"/events/{event}").status_code == 503
        assert client.get("/health").json()["database"] == {"status": "unreachable"}
        assert client.get("/health/live").status_code == 200
        database.psql(f"alter database {name} connection limit -1")
        wait_until(lambda: client.reserve(event).status_code == 201)
        wait_until(lambda: client.get("/health").status_code == 200)


EVENT = {"name": "Another night", "date": "2030-01-01T20:00:00Z", "totalTickets": 5}


def end_connections(database: Database) -> None:
    """End all connections of the service, as a failover does."""
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name = 'holdfast'"
        )


@not_pooled("behind a pooler nothing is prepared")
def test_a_connection_that_cannot_prepare_all_is_not_kept_with_a_half(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    database.psql("alter table ticket_allocations rename position to placed")
    assert code(client.reserve(event)) == (500, "INTERNAL_SERVER_ERROR")
    database.psql("alter table ticket_allocations rename placed to position")
    assert client.reserve(event).status_code == 201
