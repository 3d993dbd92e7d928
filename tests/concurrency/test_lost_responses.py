"""Lost responses: a client that retries learns what a lost response would have told it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psycopg
import pytest

from service import limits
from service.database.queries import Queries
from service.limits import DEADLINE_SECONDS
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.lossy_proxy import LossyProxy, proxy_database
from tests.support.services import RunningService, Starter
from tests.support.waiting import WAIT_SECONDS, wait_until


@pytest.fixture
def proxied_database(database: Database) -> Iterator[tuple[Database, LossyProxy]]:
    """The same database through a proxy, and the proxy."""
    with proxy_database(database) as proxied:
        yield proxied


def test_a_retry_with_its_key_finds_a_reservation_of_unknown_outcome(
    database: Database, proxied_database: tuple[Database, LossyProxy], start: Starter
) -> None:
    remote, proxy = proxied_database
    with start(remote, sweeps=False).client() as client:
        event = client.create_event(tickets=5)
        client.hold(event)  # opens a connection and prepares the statements
        proxy.loses_responses = True
        assert code(client.reserve(event, 2, "bob", key="k")) == (503, "OUTCOME_UNKNOWN")
        # The new connection fails before the change is sent.
        assert code(client.reserve(event, 2, "eve", key="k")) == (503, "BUSY")
        proxy.loses_responses = False
        wait_until(lambda: client.reserve(event, 2, "bob", key="k").status_code == 201)
        again = client.reserve(event, 2, "bob", key="k")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert client.find_event(event)["allocatedTickets"] == 3
    database.check_books()


def send(client: Client, request: str, ticket: str, reservation: str) -> httpx2.Response:
    """Send a change of a ticket or of its reservation."""
    if request == "extend":
        return client.extend_reservation(reservation)
    if request == "transfer":
        return client.transfer(ticket, "bob")
    change: Callable[[str], httpx2.Response] = getattr(client, request)
    return change(ticket)


@pytest.mark.parametrize(
    ("request_", "repeat", "status"),
    [
        ("pay", (409, "ALREADY_PURCHASED"), "purchased"),
        ("pay_late", (409, "ALREADY_PURCHASED"), "purchased"),
        ("refund", (409, "ALREADY_REFUNDED"), "refunded"),
        ("extend", (409, "HOLD_AT_MAXIMUM"), "reserved"),
        ("transfer", (403, "WRONG_FINGERPRINT"), "reserved"),
    ],
)
def test_a_retry_finds_a_change_of_unknown_outcome(
    database: Database,
    proxied_database: tuple[Database, LossyProxy],
    start: Starter,
    request_: str,
    repeat: tuple[int, str],
    status: str,
) -> None:
    remote, proxy = proxied_database
    with start(remote, sweeps=False).client() as client:
        # An extension reaches its maximum at once.
        event = client.create_event(holdSeconds=600, maxHoldSeconds=601)
        (held,) = client.reserve(event).json()
        ticket, reservation = held["id"], held["reservationId"]
        if request_ == "refund":
            client.pay(ticket).raise_for_status()
        if request_ == "pay_late":
            database.expire_hold(ticket)
        if request_ == "extend":
            database.psql("update ticket_allocations set expires_at = now() + interval '1 min'")
        proxy.loses_responses = True
        result = code(send(client, request_, ticket, reservation))
        assert result == (503, "OUTCOME_UNKNOWN")
        proxy.loses_responses = False
        wait_until(lambda: code(send(client, request_, ticket, reservation)) == repeat)
        version = client.find_event(event)["version"]
        assert code(send(client, request_, ticket, reservation)) == repeat
        owner = "bob" if request_ == "transfer" else "alice"
        found = client.find_ticket(ticket, owner).json()
        assert (found["status"], found["userFingerprint"]) == (status, owner)
        # A repeat changes nothing.
        assert client.find_event(event)["version"] == version
    database.check_books()


def test_a_retry_replays_a_response_that_the_client_has_lost(
    service: RunningService,
) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with service.client() as client, LossyProxy((host, int(port))) as proxy:
        event = client.create_event(tickets=5)
        url = f"http://127.0.0.1:{proxy.port}"
        with Client(base_url=url, timeout=WAIT_SECONDS) as remote_client:
            proxy.loses_responses = True
            with pytest.raises(httpx2.TransportError):
                remote_client.reserve(event, 2, "bob", key="k")
            proxy.loses_responses = False
            again = remote_client.reserve(event, 2, "bob", key="k")
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert client.find_event(event)["allocatedTickets"] == 2


def test_a_request_to_a_silent_database_ends_at_the_deadline(
    database: Database, proxied_database: tuple[Database, LossyProxy], start: Starter
) -> None:
    remote, proxy = proxied_database
    with start(remote, sweeps=False).client() as client:
        event = client.create_event(tickets=5)
        proxy.forwarding.clear()
        for n in range(4):
            response = client.reserve(event, 1, f"user-{n}", key="k")
            assert code(response) in ((503, "OUTCOME_UNKNOWN"), (503, "BUSY"))
            assert response.elapsed.total_seconds() < DEADLINE_SECONDS + 1
            assert client.get(f"/events/{event}").status_code == 503
        proxy.forwarding.set()
        wait_until(lambda: client.reserve(event, 1, "user-0", key="k").status_code == 201)
        # BUSY has reserved nothing, and no key has reserved twice.
        for n in range(1, 4):
            assert client.reserve(event, 1, f"user-{n}", key="k").status_code == 201
        assert client.find_event(event)["allocatedTickets"] == 4
    database.check_books()


@pytest.fixture
def database_without_standby(unbalanced_database: Database, server: str) -> Iterator[Database]:
    """A database whose commits wait for a standby that does not exist."""
    (name,) = unbalanced_database.psql("select current_database()")
    with psycopg.connect(server, autocommit=True) as owner:
        # Only connections to this database wait for the standby, not those of this fixture.
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


def insert_event(database: Database) -> str:
    """Insert an event without waiting for the standby."""
    return database.psql(
        "set synchronous_commit = 'local'; insert into events (name, date, total_tickets) "
        "values ('Opening night', '2030-01-01', 5) returning id"
    )[0]


# Connections that wait for the standby.
WAITING = "select pid from pg_stat_activity where wait_event = 'SyncRep'"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_commit_that_no_standby_has_confirmed_is_outcome_unknown(
    database_without_standby: Database, start: Starter, is_cancelled: bool
) -> None:
    with (
        start(database_without_standby, sweeps=False).client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        event = insert_event(database_without_standby)
        pending = pool.submit(client.reserve, event, 1, "bob", "k")
        wait_until(lambda: database_without_standby.psql(WAITING) != [])
        if is_cancelled:
            # PostgreSQL then stops waiting, and reports the commit with a warning.
            database_without_standby.psql(
                f"select pg_cancel_backend(pid) from ({WAITING}) as waiting"
            )
            wait_until(pending.done)
        # Otherwise the deadline ends the wait.
        assert code(pending.result()) == (503, "OUTCOME_UNKNOWN")
        database_without_standby.psql(
            "alter system reset synchronous_standby_names; select pg_reload_conf()"
        )
        wait_until(lambda: client.reserve(event, 1, "bob", key="k").status_code == 201)
        again = client.reserve(event, 1, "bob", key="k")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert client.find_event(event)["allocatedTickets"] == 1


def test_a_connection_that_waits_for_a_standby_is_not_given_up(
    database_without_standby: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing it would end no wait: each retry would leave one more process of the server."""
    monkeypatch.setattr(limits, "GIVE_UP_SECONDS", 0.2)
    checks = 0
    is_waiting_for_standby = Queries.is_waiting_for_standby

    async def counted(queries: Queries) -> bool:
        nonlocal checks
        checks += 1
        return await is_waiting_for_standby(queries)

    monkeypatch.setattr(Queries, "is_waiting_for_standby", counted)
    with (
        start(database_without_standby, sweeps=False).client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        event = insert_event(database_without_standby)
        pending = pool.submit(client.reserve, event, 1, "bob", "k")
        wait_until(lambda: checks > 3)
        database_without_standby.psql(
            "alter system reset synchronous_standby_names; select pg_reload_conf()"
        )
        assert pending.result().status_code == 201


def test_an_event_that_no_standby_has_confirmed_is_outcome_unknown(
    database_without_standby: Database, start: Starter
) -> None:
    body = {"name": "Opening night", "date": "2030-01-01T20:00:00Z", "totalTickets": 5}
    with (
        start(database_without_standby, sweeps=False).client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        pending = pool.submit(client.post, "/events", json=body)
        wait_until(lambda: database_without_standby.psql(WAITING) != [])
        database_without_standby.psql(f"select pg_cancel_backend(pid) from ({WAITING}) as waiting")
        assert code(pending.result()) == (503, "OUTCOME_UNKNOWN")
        database_without_standby.psql(
            "alter system reset synchronous_standby_names; select pg_reload_conf()"
        )
        # The event was created, so the retry is refused.
        assert code(client.post("/events", json=body)) == (409, "EVENT_EXISTS")
