"""Kills: whatever process is killed during a sale, every response stays true and nothing is lost.

A crowd reserves with keys, pays, cancels and refunds, and retries each request until it succeeds
or is refused. Meanwhile the service, a worker, a backend or the postmaster is killed with SIGKILL
again and again. Then all responses are compared with the tables.
``pytest tests/concurrency/test_kills.py -rP`` prints the figures; ``-m slow`` kills more often.
"""

import itertools
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx2
import psycopg
import pytest

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import EmbeddedError
from service.limits import DEADLINE_SECONDS
from service.settings import resource
from tests.support.client import Client, code
from tests.support.commands import holdfast
from tests.support.database import Database
from tests.support.services import run_embedded_service, worker_pids
from tests.support.waiting import WAIT_SECONDS, wait_until

KILLS = pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
# Late payments are one of the requests that a sale survives: once by default.
LATE_KILLS = pytest.mark.parametrize("kills", [1, pytest.param(25, marks=pytest.mark.slow)])
BUYERS = 16
# Of each event. With every kill another event goes on sale, so requests succeed and are refused.
TICKETS = 60
SETTINGS = {"HOLD_SECONDS": "2", "LOG_LEVEL": "warning"}
# Delay before a retry: shorter than Retry-After.
RETRY_SECONDS = 0.05
RECOVERY_SECONDS = 5.0
# Added to time limits: the crowd, the service and PostgreSQL share two cores.
SLACK_SECONDS = 2.0

# The refusal of a retry whose earlier attempt has succeeded, by the intended status.
ALREADY = {
    "purchased": "ALREADY_PURCHASED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
}

ORDERS = """
select
    user_fingerprint, count(distinct reservation_id),
    string_agg(id::text, ' ' order by position), string_agg(status::text, ' ' order by position)
from ticket_allocations
group by user_fingerprint
"""
HELD = "select count(*) from ticket_allocations where status = 'reserved'"

Send = Callable[[], httpx2.Response]


class Attempt(NamedTuple):
    """One attempt to send a request.

    Attributes:
        result: the status and code of the response, or 'lost', or 'not reached'.
        seconds: how long it took.
    """

    result: str
    seconds: float


@dataclass
class Order:
    """The order of one buyer, according to the responses.

    Attributes:
        tickets: the acknowledged tickets, with the status that each must have at the end.
        unknown: whether it was refused after an attempt with an unknown outcome.
    """

    tickets: dict[str, str] = field(default_factory=dict)
    unknown: bool = False


@dataclass
class Sale:
    """A crowd that buys tickets, and the responses that it got.

    Attributes:
        url: of the service.
        events: all events of the sale.
        on_sale: how many of the events are on sale; the crowd buys tickets of the last two.
        over: set when the crowd shall stop.
        attempts: all attempts to send a request.
        decided_at: when a request last succeeded or was refused.
        orders: by buyer.
        contradictions: responses that contradict each other or the tables.
    """

    url: str
    events: list[str]
    on_sale: int = 1
    over: threading.Event = field(default_factory=threading.Event)
    attempts: list[Attempt] = field(default_factory=list)
    decided_at: float = 0.0
    orders: dict[str, Order] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)

    def check(self, is_true: bool, contradiction: object) -> None:
        """Record a contradiction unless the condition is true."""
        if not is_true:
            self.contradictions.append(str(contradiction))

    def request(self, send: Send) -> tuple[httpx2.Response, bool]:
        """Send a request until it succeeds or is refused.

        Returns:
            The response, and whether an earlier attempt may have succeeded.
        """
        unknown = False
        deadline = time.monotonic() + 3 * WAIT_SECONDS
        while True:
            sent = time.monotonic()
            assert sent < deadline, "the request neither succeeds nor is refused"
            try:
                response = send()
            except httpx2.ConnectError:
                result = "not reached"
            except (httpx2.NetworkError, httpx2.RemoteProtocolError):
                result, unknown = "lost", True
            else:
                status = response.status_code
                result = f"{status}" if response.is_success else f"{status} {code(response)[1]}"
                unknown |= result == "503 OUTCOME_UNKNOWN"
            now = time.monotonic()
            self.attempts.append(Attempt(result, now - sent))
            if result not in ("not reached", "lost", "503 BUSY", "503 OUTCOME_UNKNOWN"):
                self.decided_at = now
                return response, unknown
            time.sleep(RETRY_SECONDS)

    def buy(self, number: int) -> None:
        """Place one order after another, each as a new buyer, until the sale is over."""
        rng = random.Random(number)
        with Client(base_url=self.url, timeout=WAIT_SECONDS) as client:
            for order in itertools.count():
                if self.over.is_set():
                    return
                self._place_order(client, rng, f"buyer-{number}-{order}")

    def _place_order(self, client: Client, rng: random.Random, buyer: str) -> None:
        event = rng.choice(self.events[max(0, self.on_sale - 2) : self.on_sale])
        quantity = rng.randint(1, 3)
        reserve = partial(client.reserve, event, quantity, buyer, key=f"order-of-{buyer}")
        response, unknown = self.request(reserve)
        if response.status_code != 201:
            self.orders[buyer] = Order(unknown=unknown)
            available = response.json()["details"]["availableTickets"]
            expected = "NOT_ENOUGH_TICKETS" if available else "TICKETS_SOLD_OUT"
            is_right = code(response) == (409, expected) and available < quantity
            self.check(is_right, response.text)
            return
        reserved = response.json()
        # A replay is possible only after an unknown outcome: BUSY means that nothing has changed.
        is_right = unknown or "Idempotency-Replayed" not in response.headers
        self.check(is_right, f"{buyer}: replayed")
        self.check(len(reserved) == quantity, response.text)
        order = self.orders[buyer] = Order({ticket["id"]: "expired" for ticket in reserved})
        self._finish_order(client, rng, buyer, order, reserved)
        if rng.random() < 0.25:
            replay, _ = self.request(reserve)
            replayed = replay.status_code == 201 and "Idempotency-Replayed" in replay.headers
            tickets = replayed and [(ticket["id"], ticket["status"]) for ticket in replay.json()]
            final = list(order.tickets.items())
            held = [(id_, "reserved" if end == "expired" else end) for id_, end in final]
            self.check(tickets in (final, held), f"{buyer}: {final} replayed as {replay.text}")

    def _finish_order(
        self,
        client: Client,
        rng: random.Random,
        buyer: str,
        order: Order,
        reserved: list[dict[str, str]],
    ) -> None:
        """Pay for, cancel, or refund the tickets, one by one or all at once, or let them expire."""
        status = rng.choice(["purchased", "purchased", "user_cancelled", "expired"])
        if status == "expired":
            return
        tickets, expires_at = list(order.tickets), datetime.fromisoformat(reserved[0]["expiresAt"])
        change_ticket, change_reservation = {
            "purchased": (client.pay, client.pay_reservation),
            "user_cancelled": (client.cancel, client.cancel_reservation),
        }[status]
        if rng.random() < 0.5:
            send = partial(change_reservation, reserved[0]["reservationId"], buyer)
            self._change(send, order, tickets, status, expires_at)
        else:
            for ticket in tickets:
                send = partial(change_ticket, ticket, buyer)
                self._change(send, order, [ticket], status, expires_at)
        if order.tickets[tickets[0]] == "purchased" and rng.random() < 0.5:
            send = partial(client.refund, tickets[0])
            self._change(send, order, tickets[:1], "refunded", datetime.max.replace(tzinfo=UTC))

    def _change(
        self, send: Send, order: Order, tickets: list[str], status: str, expires_at: datetime
    ) -> None:
        """Change the status of tickets, and record it unless their hold has expired."""
        response, unknown = self.request(send)
        if response.is_success:
            self.check(response.json()["status"] == status, response.text)
        elif code(response) == (410, "HOLD_EXPIRED"):
            is_right = datetime.now(UTC) >= expires_at
            self.check(is_right, f"expired before {expires_at}: {response.text}")
            return
        else:
            is_right = unknown and code(response) == (409, ALREADY[status])
            self.check(is_right, f"{status}: {response.text}")
        order.tickets |= dict.fromkeys(tickets, status)

    def run(self, kills: int, kill: Callable[[], float]) -> list[float]:
        """Let the crowd buy while something is killed again and again.

        Args:
            kills: how often.
            kill: kills, waits for the restart, and returns the time of the restart.

        Returns:
            For each kill, the seconds from the restart until a request succeeds or is refused.
        """
        rng, recoveries = random.Random(kills), []

        def kill_once() -> float:
            attempts = len(self.attempts) + rng.randint(50, 200)
            wait_until(lambda: len(self.attempts) > attempts)
            restarted_at = kill()
            wait_until(lambda: self.decided_at >= restarted_at)
            return self.decided_at - restarted_at

        with ThreadPoolExecutor(BUYERS) as pool:
            buyers = [pool.submit(self.buy, number) for number in range(BUYERS)]
            try:
                for number in range(kills):
                    self.on_sale = number + 1
                    recoveries.append(kill_once())
            finally:
                self.over.set()
            for buyer in buyers:
                buyer.result()
        return recoveries

    def compare(self, database: Database) -> None:
        """Wait until all holds have expired, and compare the orders with the tables."""
        wait_until(lambda: database.psql(HELD) == ["0"])
        stored: dict[str, dict[str, str]] = {}
        for line in database.psql(ORDERS):
            buyer, reservations, ids, statuses = line.split("|")
            self.check(reservations == "1", f"{buyer} has {reservations} reservations for one key")
            stored[buyer] = dict(zip(ids.split(), statuses.split(), strict=True))
        for buyer, order in self.orders.items():
            rows = stored.pop(buyer, {})
            if order.unknown and set(rows.values()) == {"expired"}:
                continue  # an attempt has succeeded after its retry was refused
            expected, actual = list(order.tickets.items()), list(rows.items())
            self.check(expected == actual, f"{buyer}: {expected} became {actual}")
        self.check(not stored, f"tickets that were never ordered: {stored}")
        for attempt in self.attempts:
            self.check(not attempt.result.startswith("500"), attempt)
            self.check(attempt.seconds < DEADLINE_SECONDS + SLACK_SECONDS, attempt)

    def sell_out(self) -> None:
        """Buy all available tickets of each event, and check that there are exactly TICKETS."""
        with Client(base_url=self.url, timeout=WAIT_SECONDS) as client:
            for event in self.events:
                counts = self.request(partial(client.get, f"/events/{event}"))[0].json()
                available = counts["totalTickets"] - counts["purchasedTickets"]
                assert counts["availableTickets"] == available
                while available:
                    reserved, _ = self.request(partial(client.reserve, event, min(available, 10)))
                    assert reserved.status_code == 201, reserved.text
                    reservation = reserved.json()[0]["reservationId"]
                    paid, _ = self.request(partial(client.pay_reservation, reservation))
                    assert paid.status_code == 200, paid.text
                    available -= len(reserved.json())
                assert code(client.reserve(event)) == (409, "TICKETS_SOLD_OUT")
                assert client.find_event(event)["purchasedTickets"] == TICKETS

    def figures(self) -> str:
        """Return a summary of the sale in three lines."""
        results = sorted(Counter(attempt.result for attempt in self.attempts).items())
        statuses = Counter(end for order in self.orders.values() for end in order.tickets.values())
        return (
            f"{len(self.attempts)} requests: "
            f"{', '.join(f'{n} {result}' for result, n in results)}\n"
            f"{statuses.total()} tickets: "
            f"{', '.join(f'{n} {status}' for status, n in statuses.items())}\n"
            f"longest response {max(attempt.seconds for attempt in self.attempts):.2f} s"
        )


@dataclass
class LateSale(Sale):
    """A crowd that pays for two tickets each, whose holds have expired."""

    # The buyers who have not paid yet: their names and reservations.
    unpaid: deque[tuple[str, str]] = field(default_factory=deque)

    def buy(self, _number: int) -> None:
        """Let one buyer after another pay late, until the sale is over."""
        with Client(base_url=self.url, timeout=WAIT_SECONDS) as client:
            while not self.over.is_set() and self.unpaid:
                buyer, reservation = self.unpaid.popleft()
                pay = partial(client.pay_late_reservation, reservation, buyer)
                response, unknown = self.request(pay)
                is_paid = response.is_success or code(response) == (409, "ALREADY_PURCHASED")
                # A retry may find that an earlier attempt has succeeded.
                self.check(unknown or response.status_code in (200, 410), response.text)
                self.orders[buyer] = Order({buyer: "purchased" if is_paid else "expired"})
                if not is_paid:
                    is_right = response.json()["details"]["availableTickets"] == 0
                    self.check(is_right, response.text)

    def compare(self, database: Database) -> None:
        """Compare the responses with the tables: each buyer has both tickets or none."""
        stored = dict(line.split("|") for line in database.psql(STATUSES_OF_BUYERS))
        for buyer, order in self.orders.items():
            self.check(stored[buyer] == order.tickets[buyer], f"{buyer}: {stored[buyer]}")
        purchased = sum(status == "purchased" for status in stored.values())
        self.check(
            database.psql("select allocated_tickets, purchased_tickets from events")
            == [f"{2 * purchased}|{2 * purchased}"],
            f"{purchased} buyers have paid",
        )


STATUSES_OF_BUYERS = """
select user_fingerprint, string_agg(distinct status::text, ' ')
from ticket_allocations
group by user_fingerprint
"""
# Buyers whose two holds have expired.
LATE_BUYERS = """
with pairs as materialized (select gen_random_uuid() as id, n from generate_series(1, {count}) as n)
insert into ticket_allocations (
    event_id, user_fingerprint, status, expires_at, reservation_id, position
)
select '{event}', 'late-' || pairs.n, 'expired', now(), pairs.id, positions.position
from pairs cross join generate_series(1, 2) as positions (position);
"""


def open_late_sale(client: Client, database: Database, kills: int) -> LateSale:
    """Create an event and buyers who are late for it, more than it has tickets for."""
    count = 1000 * kills
    event = client.create_event(300 * kills)
    database.psql(LATE_BUYERS.format(event=event, count=count))
    buyers = database.psql(
        "select distinct user_fingerprint, reservation_id from ticket_allocations"
    )
    sale = LateSale(str(client.base_url), [event])
    sale.unpaid.extend((name, id_) for name, id_ in (line.split("|") for line in buyers))
    return sale


def assert_late_payments_survive(
    sale: LateSale, database: Database, kills: int, kill: Callable[[], float]
) -> None:
    """Assert that kills during late payments lose none and double none."""
    sale.run(kills, kill)
    print(f"{kills} kills, {sale.figures()}")
    sale.compare(database)
    assert sale.contradictions == []
    audit = holdfast("audit", database_url=database.dsn)
    assert audit.returncode == 0, audit.stdout


def open_sale(client: Client, kills: int) -> Sale:
    """Create the events of a sale, one for each kill."""
    events = [client.create_event(TICKETS, name=f"night {number}") for number in range(kills)]
    return Sale(str(client.base_url), events)


def assert_survives(sale: Sale, database: Database, kills: int, kill: Callable[[], float]) -> None:
    """Assert that all responses of a sale are true after this many kills."""
    started = time.monotonic()
    recoveries = sale.run(kills, kill)
    print(f"{kills} kills in {time.monotonic() - started:.0f} s, {sale.figures()}")
    print(f"recovery {statistics.median(recoveries):.2f} s median, {max(recoveries):.2f} s maximum")
    sale.compare(database)
    assert sale.contradictions == []
    sale.sell_out()
    audit = holdfast("audit", database_url=database.dsn)
    assert audit.returncode == 0, audit.stdout
    assert max(recoveries) < RECOVERY_SECONDS + SLACK_SECONDS


def crash(
    database: Database, find_pid: Callable[[], int], restart: Callable[[], bool] = lambda: True
) -> float:
    """Kill a process of PostgreSQL, and return the time when the server is up again.

    Args:
        database: a database of the server.
        find_pid: returns the ID of the process to kill.
        restart: is called until it returns true, if the server is not restarted otherwise.
    """
    with database.connect() as connection:
        os.kill(find_pid(), signal.SIGKILL)
        wait_until(lambda: not is_alive(connection))
    wait_until(lambda: restart() and is_up(database))
    return time.monotonic()


def is_alive(connection: psycopg.Connection) -> bool:
    """Whether this connection still works."""
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def is_up(database: Database) -> bool:
    """Whether the server accepts connections."""
    try:
        with database.connect() as connection:
            return is_alive(connection)
    except psycopg.OperationalError:
        return False


def try_start(postgres: EmbeddedPostgres) -> bool:
    """Start a server; return false while remains of its killed processes prevent it."""
    try:
        postgres.start()
    except EmbeddedError:
        return False
    return True


def embedded_database(folder: Path) -> Database:
    """Return the database of the embedded PostgreSQL in a folder."""
    return Database(str(EmbeddedPostgres(folder).dsn))


def postmaster_pid(data_dir: Path) -> int:
    """Return the process ID of a postmaster."""
    (pid_file,) = data_dir.glob("postgresql-*/postmaster.pid")
    return int(pid_file.read_text().splitlines()[0])


def backend_pid(database: Database) -> int:
    """Return the process ID of a backend of the service, preferably of one that is working."""
    (pid,) = database.psql(
        "select pid from pg_stat_activity where application_name = 'holdfast' "
        "order by state = 'idle', random() limit 1"
    )
    return int(pid)


def kill_worker(process: int) -> float:
    """Kill a worker, and return the time when it is replaced."""
    worker = random.choice(worker_pids(process))
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(set(worker_pids(process)) - {worker}) == 2)
    return time.monotonic()


@KILLS
@pytest.mark.parametrize(
    "is_embedded",
    [
        pytest.param(False, id="PostgreSQL keeps running"),
        # Its short version: test_a_key_is_replayed_after_a_kill_of_the_service.
        pytest.param(True, id="embedded PostgreSQL", marks=pytest.mark.slow),
    ],
)
def test_a_sale_survives_kills_of_the_service(
    database: Database, folder: Path, unused_port: int, kills: int, is_embedded: bool
) -> None:
    variables = SETTINGS if is_embedded else SETTINGS | {"DATABASE_URL": database.service_dsn}
    with ExitStack() as running:
        process, client = running.enter_context(
            run_embedded_service(folder, unused_port, **variables)
        )
        sale = open_sale(client, kills)

        def kill() -> float:
            nonlocal process
            process.kill()
            process.wait()
            # Without a wait, so its PostgreSQL may still be stopping.
            process, _ = running.enter_context(
                run_embedded_service(folder, unused_port, **variables)
            )
            return time.monotonic()

        if is_embedded:
            database = embedded_database(folder)
        assert_survives(sale, database, kills, kill)


@KILLS
def test_a_sale_survives_kills_of_a_worker(
    database: Database, folder: Path, unused_port: int, kills: int
) -> None:
    variables = {"DATABASE_URL": database.service_dsn, "WORKERS": "2", **SETTINGS}
    with run_embedded_service(folder, unused_port, **variables) as (process, client):
        sale = open_sale(client, kills)
        assert_survives(sale, database, kills, lambda: kill_worker(process.pid))


@KILLS
def test_a_sale_survives_kills_of_a_backend(folder: Path, unused_port: int, kills: int) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        sale, database = open_sale(client, kills), embedded_database(folder)
        kill = partial(crash, database, partial(backend_pid, database))
        assert_survives(sale, database, kills, kill)


@KILLS
def test_a_sale_survives_kills_of_the_embedded_postmaster(
    folder: Path, unused_port: int, kills: int
) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        sale, database = open_sale(client, kills), embedded_database(folder)
        kill = partial(crash, database, partial(postmaster_pid, folder))
        assert_survives(sale, database, kills, kill)


@KILLS
def test_a_sale_survives_kills_of_a_worker_and_a_remote_postmaster_at_once(
    folder: Path, unused_port: int, kills: int
) -> None:
    data_dir = folder / "remote"
    with EmbeddedPostgres(data_dir) as postgres:
        database = Database(str(postgres.dsn))
        migrate(database.dsn, load_statements(resource("sql")))
        variables = {"DATABASE_URL": database.dsn, "WORKERS": "2", **SETTINGS}
        with run_embedded_service(folder, unused_port, **variables) as (
            process,
            client,
        ):
            sale = open_sale(client, kills)

            def kill_worker_and_find_postmaster() -> int:
                os.kill(random.choice(worker_pids(process.pid)), signal.SIGKILL)
                return postmaster_pid(data_dir)

            restart = partial(try_start, postgres)
            kill = partial(crash, database, kill_worker_and_find_postmaster, restart)
            assert_survives(sale, database, kills, kill)


@LATE_KILLS
def test_late_payments_survive_kills_of_the_service(
    database: Database, folder: Path, unused_port: int, kills: int
) -> None:
    variables = {**SETTINGS, "DATABASE_URL": database.service_dsn}
    with ExitStack() as running:
        process, client = running.enter_context(
            run_embedded_service(folder, unused_port, **variables)
        )
        sale = open_late_sale(client, database, kills)

        def kill() -> float:
            nonlocal process
            process.kill()
            process.wait()
            process, _ = running.enter_context(
                run_embedded_service(folder, unused_port, **variables)
            )
            return time.monotonic()

        assert_late_payments_survive(sale, database, kills, kill)


@LATE_KILLS
def test_late_payments_survive_kills_of_a_backend(
    folder: Path, unused_port: int, kills: int
) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        database = embedded_database(folder)
        sale = open_late_sale(client, database, kills)
        kill = partial(crash, database, partial(backend_pid, database))
        assert_late_payments_survive(sale, database, kills, kill)


def test_the_crowd_notices_a_crash_without_synchronous_commit(
    folder: Path, unused_port: int
) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        sale, database = open_sale(client, 1), embedded_database(folder)
        # Changed after the start, because the service refuses to start with such a server.
        database.psql("alter database holdfast set synchronous_commit = off")
        database.psql("alter system set wal_writer_delay = '10s'")
        database.psql("alter system set wal_writer_flush_after = '1GB'")
        database.psql("select pg_reload_conf()")
        database.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'holdfast'"
        )
        sale.run(1, partial(crash, database, partial(postmaster_pid, folder)))
        sale.compare(database)
        assert any("became []" in contradiction for contradiction in sale.contradictions)
