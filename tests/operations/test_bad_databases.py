"""Bad databases: how the service refuses during temporary failures, and that it recovers."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from service.limits import BATCH_TRIES
from tests.support.client import Client, code
from tests.support.database import Database, skip_if_pooled
from tests.support.services import Starter
from tests.support.waiting import wait_until

# Takes the statement that fails, and how often; returns a client and the database.
MakeFailingService = Callable[[str, int], tuple[Client, Database]]

FAILING_TRIGGER = """
create sequence tries;
grant usage on sequence tries to public;
create function fail() returns trigger language plpgsql as $$
begin
    if nextval('tries') <= {failures} then {statement}; end if;
    return new;
end $$;
create trigger fails before insert on ticket_allocations for each row execute function fail();
"""


def raise_error(sqlstate: str) -> str:
    return f"raise exception 'on purpose' using errcode = '{sqlstate}'"


@pytest.fixture
def make_failing_service(
    unbalanced_database: Database, start: Starter
) -> Iterator[MakeFailingService]:
    """A function that makes a service whose reservations fail a number of times."""
    clients: list[Client] = []

    def make(statement: str, failures: int) -> tuple[Client, Database]:
        unbalanced_database.psql(FAILING_TRIGGER.format(statement=statement, failures=failures))
        client = start(unbalanced_database, sweeps=False).client()
        clients.append(client)
        return client, unbalanced_database

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "CIINF"])
def test_a_serialization_failure_deadlock_or_move_on_citus_is_retried(
    make_failing_service: MakeFailingService, sqlstate: str
) -> None:
    client, database = make_failing_service(raise_error(sqlstate), BATCH_TRIES - 1)
    assert client.reserve(client.create_event()).status_code == 201
    assert database.psql("select last_value from tries") == [str(BATCH_TRIES)]


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        (raise_error("40001"), (503, "BUSY")),
        (raise_error("40P01"), (503, "BUSY")),
        (raise_error("53200"), (503, "BUSY")),  # out of memory
        (raise_error("53100"), (503, "BUSY")),  # disk full
        ("perform pg_sleep(60)", (503, "BUSY")),  # statement_timeout
        (raise_error("XX000"), (500, "INTERNAL_SERVER_ERROR")),
    ],
)
def test_a_lasting_error_is_refused_after_few_tries_and_recovers(
    make_failing_service: MakeFailingService, statement: str, refusal: tuple[int, str]
) -> None:
    client, database = make_failing_service(statement, 1_000_000)
    event = client.create_event()
    assert code(client.reserve(event)) == refusal
    # The whole batch, the batch of its event and its own batch each have BATCH_TRIES at most.
    assert int(database.psql("select last_value from tries")[0]) <= 3 * BATCH_TRIES
    database.psql("drop trigger fails on ticket_allocations")
    assert client.reserve(event).status_code == 201
    assert client.find_event(event)["allocatedTickets"] == 1


def test_a_read_only_server_is_busy_until_it_can_be_written_to(
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


@skip_if_pooled("it reports this like a broken connection, and the outcome is unknown")
def test_a_server_without_free_connections_is_busy_until_it_has_one(
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
    """Terminate all connections of the service, as a failover does."""
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name = 'holdfast'"
        )


@skip_if_pooled("behind a pooler nothing is prepared")
def test_a_half_prepared_connection_is_closed(client: Client, database: Database) -> None:
    event = client.create_event()
    database.psql("alter table ticket_allocations rename position to placed")
    assert code(client.reserve(event)) == (500, "INTERNAL_SERVER_ERROR")
    database.psql("alter table ticket_allocations rename placed to position")
    assert client.reserve(event).status_code == 201
