"""Lost responses: what was done, and nobody was told, is found again by repeating it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from service.limits import DEADLINE_SECONDS
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.lossy_proxy import LossyProxy
from tests.support.services import RunningService, Starter
from tests.support.waiting import WAIT_SECONDS, wait_until


@pytest.fixture
def database_far_away(database: Database) -> Iterator[tuple[Database, LossyProxy]]:
    """The same database by way of a proxy."""
    parts = conninfo_to_dict(database.dsn)
    with LossyProxy(str(Path(str(parts["host"])) / ".s.PGSQL.5432")) as between:
        address = f"127.0.0.1:{between.port}/{parts['dbname']}"
        far = f"postgresql://holdfast@{address}?sslmode=disable&gssencmode=disable"
        yield Database(far), between


def test_a_retry_with_its_key_finds_a_reservation_of_unknown_outcome(
    database: Database, database_far_away: tuple[Database, LossyProxy], start: Starter
) -> None:
    far, between = database_far_away
    with start(far, sweeps=False).client() as client:
        event = client.create_event(tickets=5)
        client.hold(event)  # now there is a connection that knows the statements
        between.loses_responses = True
        assert code(client.reserve(event, 2, "bob", key="k")) == (503, "OUTCOME_UNKNOWN")
        # On a new connection nothing comes so far as to be sent.
        assert code(client.reserve(event, 2, "eve", key="k")) == (503, "BUSY")
        between.loses_responses = False
        wait_until(lambda: client.reserve(event, 2, "bob", key="k").status_code == 201)
        again = client.reserve(event, 2, "bob", key="k")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert client.find_event(event)["allocatedTickets"] == 3
    database.check_books()


def test_a_retry_finds_a_payment_of_unknown_outcome(
    database: Database, database_far_away: tuple[Database, LossyProxy], start: Starter
) -> None:
    far, between = database_far_away
    with start(far, sweeps=False).client() as client:
        held = client.hold(client.create_event())[0]
        between.loses_responses = True
        assert code(client.pay(held)) == (503, "OUTCOME_UNKNOWN")
        between.loses_responses = False
        wait_until(lambda: code(client.pay(held)) == (409, "ALREADY_PURCHASED"))
        assert client.find_ticket(held).json()["status"] == "purchased"
    database.check_books()


def test_a_retry_replays_a_response_that_the_client_has_lost(
    service: RunningService,
) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with service.client() as client, LossyProxy((host, int(port))) as between:
        event = client.create_event(tickets=5)
        url = f"http://127.0.0.1:{between.port}"
        with Client(base_url=url, timeout=WAIT_SECONDS) as far:
            between.loses_responses = True
            with pytest.raises(httpx2.TransportError):
                far.reserve(event, 2, "bob", key="k")
            between.loses_responses = False
            again = far.reserve(event, 2, "bob", key="k")
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert client.find_event(event)["allocatedTickets"] == 2


def test_a_request_to_a_silent_database_ends_at_the_deadline(
    database: Database, database_far_away: tuple[Database, LossyProxy], start: Starter
) -> None:
    far, between = database_far_away
    with start(far, sweeps=False).client() as client:
        event = client.create_event(tickets=5)
        between.forwarding.clear()
        for n in range(4):
            response = client.reserve(event, 1, f"user-{n}", key="k")
            assert code(response) in ((503, "OUTCOME_UNKNOWN"), (503, "BUSY"))
            assert response.elapsed.total_seconds() < DEADLINE_SECONDS + 1
            assert client.get(f"/events/{event}").status_code == 503
        between.forwarding.set()
        wait_until(lambda: client.reserve(event, 1, "user-0", key="k").status_code == 201)
        # Whoever was told BUSY was not served after all, and no key twice.
        for n in range(1, 4):
            assert client.reserve(event, 1, f"user-{n}", key="k").status_code == 201
        assert client.find_event(event)["allocatedTickets"] == 4
    database.check_books()


@pytest.fixture
def alone(unbalanced_database: Database, server: str) -> Iterator[Database]:
    """A database whose commits wait for a standby that does not exist."""
    (name,) = unbalanced_database.psql("select current_database()")
    with psycopg.connect(server, autocommit=True) as owner:
        # Who waits is this database's connections alone, and not those of this fixture.
        owner.execute("alter system set synchronous_commit = 'local'")
        owner.execute(f"alter database {name} set synchronous_commit = 'on'".encode())
        owner.execute("alter system set synchronous_standby_names = 'nobody'")
        owner.execute("select pg_reload_conf()")
        wait_until(lambda: unbalanced_database.psql("show synchronous_standby_names") == ["nobody"])
        try:
            yield unbalanced_database
        finally:
            owner.execute("alter system reset all")
            owner.execute("select pg_reload_conf()")


def of_its_own(database: Database) -> str:
    """Make an event without waiting for anybody."""
    return database.psql(
        "set synchronous_commit = 'local'; insert into events (name, date, total_tickets) "
        "values ('Opening night', '2030-01-01', 5) returning id"
    )[0]


WAITS = "select pid from pg_stat_activity where wait_event = 'SyncRep'"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_commit_that_no_standby_has_confirmed_is_outcome_unknown(
    alone: Database, start: Starter, is_cancelled: bool
) -> None:
    with start(alone, sweeps=False).client() as client, ThreadPoolExecutor(1) as pool:
        event = of_its_own(alone)
        answering = pool.submit(client.reserve, event, 1, "bob", "k")
        wait_until(lambda: alone.psql(WAITS) != [])
        if is_cancelled:
            # Then PostgreSQL gives up to wait, warns, and says that it is committed.
            alone.psql(f"select pg_cancel_backend(pid) from ({WAITS}) as waiting")
            wait_until(answering.done)
        # Else the deadline comes first.
        assert code(answering.result()) == (503, "OUTCOME_UNKNOWN")
        alone.psql("alter system reset synchronous_standby_names; select pg_reload_conf()")
        wait_until(lambda: client.reserve(event, 1, "bob", key="k").status_code == 201)
        again = client.reserve(event, 1, "bob", key="k")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert client.find_event(event)["allocatedTickets"] == 1


def test_an_event_that_no_standby_has_confirmed_is_outcome_unknown(
    alone: Database, start: Starter
) -> None:
    asked = {"name": "Opening night", "date": "2030-01-01T20:00:00Z", "totalTickets": 5}
    with start(alone, sweeps=False).client() as client, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(client.post, "/events", json=asked)
        wait_until(lambda: alone.psql(WAITS) != [])
        alone.psql(f"select pg_cancel_backend(pid) from ({WAITS}) as waiting")
        assert code(answering.result()) == (503, "OUTCOME_UNKNOWN")
        alone.psql("alter system reset synchronous_standby_names; select pg_reload_conf()")
        # It was made: asking again tells so, and makes no second one.
        assert code(client.post("/events", json=asked)) == (409, "EVENT_EXISTS")
