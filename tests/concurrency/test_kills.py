"""Kills: whatever is killed under a crowd, what was told stays true and nothing is lost.

A crowd reserves with keys, pays, cancels and refunds, and sends again whatever was not answered
with yes or no. Meanwhile the service, a worker, a backend or the postmaster is killed with
SIGKILL, again and again. Then all that the crowd was told is held against the tables.
``pytest tests/concurrency/test_kills.py -rP`` prints the figures, with ``-m slow`` those of many
more kills.
"""

import itertools
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
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
BUYERS = 16
TICKETS = 60
"""Of each event. With every kill another goes on sale, so that both yes and no are told."""
SETTINGS = {"HOLD_SECONDS": "2", "LOG_LEVEL": "warning"}
AGAIN_SECONDS = 0.05
"""Before a request is sent again: sooner than Retry-After asks for."""
HEAL_SECONDS = 5.0
SLACK_SECONDS = 2.0
"""For a machine that runs the crowd, the service and PostgreSQL on two cores."""

ALREADY = {
    "purchased": "ALREADY_PURCHASED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
}
"""What a repeat is told when its ticket is where it was to be brought."""

ORDERS = """
select
    user_fingerprint, count(distinct reservation_id),
    string_agg(id::text, ' ' order by position), string_agg(status::text, ' ' order by position)
from ticket_allocations
group by user_fingerprint
"""
HELD = "select count(*) from ticket_allocations where status = 'reserved'"

Send = Callable[[], httpx2.Response]


class Answer(NamedTuple):
    """What became of one request."""

    what: str
    """Its status and code, or 'lost', or 'not reached'."""
    seconds: float


@dataclass
class Order:
    """What one buyer, who orders once, was told."""

    tickets: dict[str, str] = field(default_factory=dict)
    """Those that were acknowledged, and how each must end."""
    unknown: bool = False
    """Whether it was refused after an attempt of which nobody knows what it did."""


@dataclass
class Sale:
    """A crowd that buys, and all that it was told."""

    url: str
    events: list[str]
    on_sale: int = 1
    """How many of the events the crowd knows; it asks for the last two of them."""
    over: threading.Event = field(default_factory=threading.Event)
    answers: list[Answer] = field(default_factory=list)
    decided_at: float = 0.0
    """When anybody was last told yes or no."""
    orders: dict[str, Order] = field(default_factory=dict)
    lies: list[str] = field(default_factory=list)

    def holds(self, true: bool, otherwise: object) -> None:
        """Take down whatever is not true."""
        if not true:
            self.lies.append(str(otherwise))

    def ask(self, send: Send) -> tuple[httpx2.Response, bool]:
        """Send a request until it is answered with yes or no.

        Returns:
            The answer, and whether an attempt before it may have done what was asked for.
        """
        unknown = False
        deadline = time.monotonic() + 3 * WAIT_SECONDS
        while True:
            sent = time.monotonic()
            assert sent < deadline, "nobody says yes or no any more"
            try:
                answer = send()
            except httpx2.ConnectError:
                what = "not reached"
            except (httpx2.NetworkError, httpx2.RemoteProtocolError):
                what, unknown = "lost", True
            else:
                status = answer.status_code
                what = f"{status}" if answer.is_success else f"{status} {code(answer)[1]}"
                unknown |= what == "503 OUTCOME_UNKNOWN"
            now = time.monotonic()
            self.answers.append(Answer(what, now - sent))
            if what not in ("not reached", "lost", "503 BUSY", "503 OUTCOME_UNKNOWN"):
                self.decided_at = now
                return answer, unknown
            time.sleep(AGAIN_SECONDS)

    def buy(self, number: int) -> None:
        """Be one buyer after another, until the sale is over."""
        chance = random.Random(number)
        with Client(base_url=self.url, timeout=WAIT_SECONDS) as client:
            for order in itertools.count():
                if self.over.is_set():
                    return
                self._order(client, chance, f"buyer-{number}-{order}")

    def _order(self, client: Client, chance: random.Random, buyer: str) -> None:
        event = chance.choice(self.events[max(0, self.on_sale - 2) : self.on_sale])
        quantity = chance.randint(1, 3)
        reserve = partial(client.reserve, event, quantity, buyer, key=f"order-of-{buyer}")
        answer, unknown = self.ask(reserve)
        if answer.status_code != 201:
            self.orders[buyer] = Order(unknown=unknown)
            what, left = code(answer), answer.json()["details"]["availableTickets"]
            expected = "NOT_ENOUGH_TICKETS" if left else "TICKETS_SOLD_OUT"
            self.holds(what == (409, expected) and left < quantity, answer.text)
            return
        reserved = answer.json()
        # After a BUSY there is nothing to repeat: it has said that nothing was done.
        self.holds(unknown or "Idempotency-Replayed" not in answer.headers, f"{buyer}: replayed")
        self.holds(len(reserved) == quantity, answer.text)
        order = self.orders[buyer] = Order({ticket["id"]: "expired" for ticket in reserved})
        self._decide(client, chance, buyer, order, reserved)
        if chance.random() < 0.25:
            again, _ = self.ask(reserve)
            replayed = again.status_code == 201 and "Idempotency-Replayed" in again.headers
            shown = replayed and [(ticket["id"], ticket["status"]) for ticket in again.json()]
            ended = list(order.tickets.items())
            held = [(id_, "reserved" if end == "expired" else end) for id_, end in ended]
            self.holds(shown in (ended, held), f"{buyer}: {ended} shown as {again.text}")

    def _decide(
        self,
        client: Client,
        chance: random.Random,
        buyer: str,
        order: Order,
        reserved: list[dict[str, str]],
    ) -> None:
        """Do with the tickets what buyers do, with each or with all at once, or let them lapse."""
        to = chance.choice(["purchased", "purchased", "user_cancelled", "expired"])
        if to == "expired":
            return
        tickets, until = list(order.tickets), datetime.fromisoformat(reserved[0]["expiresAt"])
        one, whole = {
            "purchased": (client.pay, client.pay_reservation),
            "user_cancelled": (client.cancel, client.cancel_reservation),
        }[to]
        if chance.random() < 0.5:
            send = partial(whole, reserved[0]["reservationId"], buyer)
            self._move(send, order, tickets, to, until)
        else:
            for ticket in tickets:
                self._move(partial(one, ticket, buyer), order, [ticket], to, until)
        if order.tickets[tickets[0]] == "purchased" and chance.random() < 0.5:
            send = partial(client.refund, tickets[0])
            self._move(send, order, tickets[:1], "refunded", datetime.max.replace(tzinfo=UTC))

    def _move(self, send: Send, order: Order, tickets: list[str], to: str, until: datetime) -> None:
        """Bring tickets to a status while their hold lasts, and take down where they are now."""
        answer, unknown = self.ask(send)
        if answer.is_success:
            self.holds(answer.json()["status"] == to, answer.text)
        elif code(answer) == (410, "HOLD_EXPIRED"):
            self.holds(datetime.now(UTC) >= until, f"lapsed before {until}: {answer.text}")
            return
        else:
            self.holds(unknown and code(answer) == (409, ALREADY[to]), f"{to}: {answer.text}")
        order.tickets |= dict.fromkeys(tickets, to)

    def goes_on_through(self, kills: int, kill: Callable[[], float]) -> list[float]:
        """Let the crowd buy while something is killed again and again.

        Args:
            kills: how often.
            kill: kills, waits until what was killed is there again, and returns since when.

        Returns:
            The seconds from then until somebody was told yes or no, for each kill.
        """
        chance, healed = random.Random(kills), []

        def one_more() -> float:
            enough = len(self.answers) + chance.randint(50, 200)
            wait_until(lambda: len(self.answers) > enough)
            back = kill()
            wait_until(lambda: self.decided_at >= back)
            return self.decided_at - back

        with ThreadPoolExecutor(BUYERS) as pool:
            buyers = [pool.submit(self.buy, number) for number in range(BUYERS)]
            try:
                for number in range(kills):
                    self.on_sale = number + 1
                    healed.append(one_more())
            finally:
                self.over.set()
            for buyer in buyers:
                buyer.result()
        return healed

    def compare(self, database: Database) -> None:
        """Hold what was told against the tables, now that all holds have run out."""
        wait_until(lambda: database.psql(HELD) == ["0"])
        found: dict[str, dict[str, str]] = {}
        for line in database.psql(ORDERS):
            buyer, reservations, ids, ends = line.split("|")
            self.holds(reservations == "1", f"{buyer} has {reservations} reservations for a key")
            found[buyer] = dict(zip(ids.split(), ends.split(), strict=True))
        for buyer, order in self.orders.items():
            there = found.pop(buyer, {})
            if order.unknown and set(there.values()) == {"expired"}:
                continue  # an attempt came to its end after its repeat had been refused
            told, true = list(order.tickets.items()), list(there.items())
            self.holds(told == true, f"{buyer}: {told} became {true}")
        self.holds(not found, f"nobody has asked for {found}")
        for answer in self.answers:
            self.holds(not answer.what.startswith("500"), answer)
            self.holds(answer.seconds < DEADLINE_SECONDS + SLACK_SECONDS, answer)

    def sell_out(self) -> None:
        """Sell what is left of each event, and not one more."""
        with Client(base_url=self.url, timeout=WAIT_SECONDS) as client:
            for event in self.events:
                shown = self.ask(partial(client.get, f"/events/{event}"))[0].json()
                left = shown["totalTickets"] - shown["purchasedTickets"]
                assert shown["availableTickets"] == left
                while left:
                    reserved, _ = self.ask(partial(client.reserve, event, min(left, 10)))
                    assert reserved.status_code == 201, reserved.text
                    reservation = reserved.json()[0]["reservationId"]
                    paid, _ = self.ask(partial(client.pay_reservation, reservation))
                    assert paid.status_code == 200, paid.text
                    left -= len(reserved.json())
                assert code(client.reserve(event)) == (409, "TICKETS_SOLD_OUT")
                assert client.find_event(event)["purchasedTickets"] == TICKETS

    def figures(self) -> str:
        """Return in a few lines what the crowd has been through."""
        answers = sorted(Counter(answer.what for answer in self.answers).items())
        ends = Counter(end for order in self.orders.values() for end in order.tickets.values())
        return (
            f"{len(self.answers)} requests: {', '.join(f'{n} {what}' for what, n in answers)}\n"
            f"{ends.total()} tickets: {', '.join(f'{n} {end}' for end, n in ends.items())}\n"
            f"longest answer {max(answer.seconds for answer in self.answers):.2f} s"
        )


def open_sale(client: Client, kills: int) -> Sale:
    """Make the events of a sale, one for each kill."""
    events = [client.create_event(TICKETS, name=f"night {number}") for number in range(kills)]
    return Sale(str(client.base_url), events)


def withstands(sale: Sale, database: Database, kills: int, kill: Callable[[], float]) -> None:
    """Assert that a sale withstands so many kills."""
    begun = time.monotonic()
    healed = sale.goes_on_through(kills, kill)
    print(f"{kills} kills in {time.monotonic() - begun:.0f} s, {sale.figures()}")
    print(f"healed after {max(healed):.2f} s at the most, {statistics.median(healed):.2f} s median")
    sale.compare(database)
    assert sale.lies == []
    sale.sell_out()
    audited = holdfast("audit", database_url=database.dsn)
    assert audited.returncode == 0, audited.stdout
    assert max(healed) < HEAL_SECONDS + SLACK_SECONDS


def crash(
    database: Database, victim: Callable[[], int], mend: Callable[[], bool] = lambda: True
) -> float:
    """Kill a process of PostgreSQL, and return since when all of it is there again.

    Args:
        database: of the server.
        victim: returns the pid.
        mend: what has to be done again and again, if anything, until it is up.
    """
    with database.connect() as bystander:
        os.kill(victim(), signal.SIGKILL)
        wait_until(lambda: not answers(bystander))
    wait_until(lambda: mend() and is_up(database))
    return time.monotonic()


def answers(connection: psycopg.Connection) -> bool:
    """Whether the server still has this connection."""
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def is_up(database: Database) -> bool:
    """Whether the server takes a connection."""
    try:
        with database.connect() as connection:
            return answers(connection)
    except psycopg.OperationalError:
        return False


def started(postgres: EmbeddedPostgres) -> bool:
    """Start a server, unless the remains of the last one are still in the way."""
    try:
        postgres.start()
    except EmbeddedError:
        return False
    return True


def embedded(folder: Path) -> Database:
    """Return the database of the embedded PostgreSQL that runs in a folder."""
    return Database(str(EmbeddedPostgres(folder).dsn))


def postmaster(data_dir: Path) -> int:
    """Return the pid of a PostgreSQL's first process."""
    (pid_file,) = data_dir.glob("postgresql-*/postmaster.pid")
    return int(pid_file.read_text().splitlines()[0])


def backend(database: Database) -> int:
    """Return the pid of a backend of the service, of one at work if there is any."""
    (pid,) = database.psql(
        "select pid from pg_stat_activity where application_name = 'holdfast' "
        "order by state = 'idle', random() limit 1"
    )
    return int(pid)


def replaced(process: int) -> float:
    """Kill a worker, and return since when there is another in its place."""
    worker = random.choice(worker_pids(process))
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(set(worker_pids(process)) - {worker}) == 2)
    return time.monotonic()


@KILLS
@pytest.mark.parametrize(
    "own",
    [
        pytest.param(False, id="PostgreSQL stays"),
        # In short: test_a_key_is_replayed_after_a_kill_of_the_service.
        pytest.param(True, id="PostgreSQL goes with it", marks=pytest.mark.slow),
    ],
)
def test_a_sale_survives_kills_of_the_service(
    database: Database, folder: Path, unused_port: int, kills: int, own: bool
) -> None:
    variables = SETTINGS if own else SETTINGS | {"DATABASE_URL": database.service_dsn}
    with ExitStack() as running:
        process, client = running.enter_context(
            run_embedded_service(folder, unused_port, **variables)
        )
        sale = open_sale(client, kills)

        def kill() -> float:
            nonlocal process
            process.kill()
            process.wait()
            # At once: its PostgreSQL may still be stopping.
            process, _ = running.enter_context(
                run_embedded_service(folder, unused_port, **variables)
            )
            return time.monotonic()

        withstands(sale, embedded(folder) if own else database, kills, kill)


@KILLS
def test_a_sale_survives_kills_of_a_worker(
    database: Database, folder: Path, unused_port: int, kills: int
) -> None:
    elsewhere = {"DATABASE_URL": database.service_dsn, "WORKERS": "2"}
    with run_embedded_service(folder, unused_port, **elsewhere, **SETTINGS) as (process, client):
        sale = open_sale(client, kills)
        withstands(sale, database, kills, lambda: replaced(process.pid))


@KILLS
def test_a_sale_survives_kills_of_a_backend(folder: Path, unused_port: int, kills: int) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        sale, database = open_sale(client, kills), embedded(folder)
        withstands(sale, database, kills, lambda: crash(database, lambda: backend(database)))


@KILLS
def test_a_sale_survives_kills_of_the_embedded_postmaster(
    folder: Path, unused_port: int, kills: int
) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        sale, database = open_sale(client, kills), embedded(folder)
        withstands(sale, database, kills, lambda: crash(database, lambda: postmaster(folder)))


@KILLS
def test_a_sale_survives_kills_of_a_worker_and_a_remote_postmaster_at_once(
    folder: Path, unused_port: int, kills: int
) -> None:
    data_dir = folder / "elsewhere"
    with EmbeddedPostgres(data_dir) as postgres:
        database = Database(str(postgres.dsn))
        migrate(database.dsn, load_statements(resource("sql")))
        elsewhere = {"DATABASE_URL": database.dsn, "WORKERS": "2"}
        with run_embedded_service(folder, unused_port, **elsewhere, **SETTINGS) as (
            process,
            client,
        ):
            sale = open_sale(client, kills)

            def both() -> int:
                os.kill(random.choice(worker_pids(process.pid)), signal.SIGKILL)
                return postmaster(data_dir)

            withstands(
                sale, database, kills, lambda: crash(database, both, lambda: started(postgres))
            )


def test_the_crowd_notices_a_crash_without_synchronous_commit(
    folder: Path, unused_port: int
) -> None:
    with run_embedded_service(folder, unused_port, **SETTINGS) as (_, client):
        sale, database = open_sale(client, 1), embedded(folder)
        # The service refuses such a server at its start, and so it becomes one later.
        database.psql("alter database holdfast set synchronous_commit = off")
        database.psql("alter system set wal_writer_delay = '10s'")
        database.psql("alter system set wal_writer_flush_after = '1GB'")
        database.psql("select pg_reload_conf()")
        database.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'holdfast'"
        )
        sale.goes_on_through(1, lambda: crash(database, lambda: postmaster(folder)))
        sale.compare(database)
        assert any("became []" in lie for lie in sale.lies)
