"""Failover: with a synchronous standby, acknowledged changes survive the loss of the primary.

The cluster is two PostgreSQL servers, and the tests do what Patroni does with
``synchronous_mode``: commits wait for a standby once it has caught up, only a synchronous
standby is promoted, and commits on a primary without a standby do not wait.
"""

import logging
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from service.database.grants import grant
from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.parent import stop_with_parent
from service.embedded.programs import find_programs
from service.limits import DEADLINE_SECONDS
from service.settings import resource
from tests.support.client import Client, code
from tests.support.commands import error_line, holdfast
from tests.support.database import SERVICE_ROLE, Database
from tests.support.services import run_service
from tests.support.waiting import WAIT_SECONDS, wait_until

log = logging.getLogger(__name__)

PASSWORD = secrets.token_hex()
BUYERS = 16
# From the promotion to the first acknowledged reservation; generous, not a measurement.
MAX_OUTAGE_SECONDS = 10
# The connections that wait for a standby to confirm a commit.
WAITING_COMMITS = "select pid from pg_stat_activity where wait_event = 'SyncRep'"


def wait_long(holds: Callable[[], bool]) -> None:
    """Wait like ``wait_until``, but four times as long, for the whole cluster."""
    for _ in range(3):
        try:
            return wait_until(holds)
        except AssertionError:
            continue
    return wait_until(holds)


class Node:
    """A PostgreSQL server on the loopback interface: the primary or the standby."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port = unused_port()
        self._programs = find_programs().make_accessible(folder)
        self._data = folder / name
        self._log = folder / f"{name}.log"
        self._server: subprocess.Popen[bytes] | None = None

    def initialize(self) -> None:
        """Create an empty data directory."""
        secret = self._data.with_suffix(".password")
        secret.write_text(PASSWORD)
        self._programs.chown(secret)
        self._programs.run(
            "initdb",
            *(f"--pgdata={self._data}", "--username=holdfast", f"--pwfile={secret}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
        )

    def copy(self, primary: "Node") -> None:
        """Replace the data by a copy of the primary's, ready to start as its standby."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._programs.run(
            "pg_basebackup",
            *(f"--pgdata={self._data}", f"--dbname={primary._conninfo}"),
            *("--write-recovery-conf", "--checkpoint=fast"),
        )

    def start(self) -> None:
        """Start the server, and wait until it accepts queries."""
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(self._programs["postgres"], "-D", str(self._data), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    # The name in the primary's synchronous_standby_names.
                    *("-c", f"cluster_name={self.name}"),
                    # Reconnect to the primary quickly.
                    *("-c", "wal_retrieve_retry_interval=100ms"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
                preexec_fn=stop_with_parent(os.getpid(), signal.SIGINT),
                **self._programs.account_options(),
            )
        wait_long(self._accepts_queries)

    def stop(self) -> None:
        """Stop the server as ``pg_ctl stop -m fast`` does."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait()
            self._server = None

    def kill(self) -> None:
        """Kill all processes of the server at once, like a crash of its machine."""
        assert self._server is not None
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, children)):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended with its parent
        self._server.wait()
        self._server = None

    def query(self, sql: str) -> list[Any]:
        """Run one statement as the owner, and return the first column of its rows."""
        with psycopg.connect(self._conninfo, dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def set(self, name: str, value: str) -> None:
        """Change a setting of the server, and wait until it is active."""
        self.query(f"alter system set {name} = '{value}'")
        self.query("select pg_reload_conf()")
        wait_until(lambda: self.query(f"show {name}") == [value])

    @property
    def _conninfo(self) -> str:
        return f"user=holdfast password={PASSWORD} host=127.0.0.1 port={self.port}"

    def _accepts_queries(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self._log.read_text()[-1000:]
        try:
            return self.query("select 1") == [1]
        except psycopg.OperationalError:
            return False


class Cluster:
    """A primary and its standby."""

    def __init__(self, folder: Path) -> None:
        find_programs().chown(folder)
        self.primary, self.standby = Node(folder, "one"), Node(folder, "two")

    @property
    def database(self) -> Database:
        """The database, on the node that accepts writes."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        parameters = f"target_session_attrs=read-write&password={PASSWORD}"
        return Database(f"postgresql://holdfast@{hosts}/holdfast?{parameters}")

    def start(self) -> None:
        """Start both nodes with a migrated database."""
        self.primary.initialize()
        self.primary.start()
        self.primary.query("create database holdfast")
        self.primary.query(f"create role {SERVICE_ROLE} login password '{PASSWORD}'")
        statements = load_statements(resource("sql"))
        migrate(self.database.dsn, statements)
        grant(self.database.dsn, statements, SERVICE_ROLE)
        self.add_standby()

    def add_standby(self) -> None:
        """Make the other node the synchronous standby of the primary."""
        self.standby.copy(self.primary)
        self.standby.start()
        self.wait_for_standby()

    def wait_for_standby(self) -> None:
        """Make commits wait for the standby, once it is streaming."""
        streams = "select application_name from pg_stat_replication where state = 'streaming'"
        wait_long(lambda: self.primary.query(streams) == [self.standby.name])
        self.primary.set("synchronous_standby_names", self.standby.name)
        # Wait for what was committed before commits waited for the standby.
        (written,) = self.primary.query("select pg_current_wal_lsn()")
        confirmed = f"sync_state = 'sync' and flush_lsn >= '{written}'"
        caught_up = f"select {confirmed} from pg_stat_replication"
        wait_long(lambda: self.primary.query(caught_up) == [True])

    def cut_off(self) -> None:
        """Stop replication from the primary to the standby; both keep running."""
        self.standby.set("primary_conninfo", "")
        wait_long(lambda: self.primary.query("select 1 from pg_stat_replication") == [])

    def promote(self) -> float:
        """Promote the standby of a lost primary; return the time in monotonic seconds."""
        self.primary, self.standby = self.standby, self.primary
        # Its commits wait for no standby: it was copied before that was set.
        assert self.primary.query("select pg_promote()") == [True]
        return time.monotonic()

    def stop(self) -> None:
        """Stop both nodes."""
        self.standby.stop()
        self.primary.stop()


class Buyers:
    """Buyers that reserve two tickets with a key, pay for one, and retry on a 503."""

    def __init__(self, url: str, event: str) -> None:
        self._url, self._event = url, event
        self._numbers = iter(range(1_000_000))
        self._done = threading.Event()
        self.responses: Counter[tuple[str, int, str]] = Counter()
        # The acknowledged reservations: tickets by buyer.
        self.reserved: dict[str, list[str]] = {}
        # The tickets whose payment was acknowledged.
        self.paid: set[str] = set()
        # When a reservation was last acknowledged, in monotonic seconds.
        self.served_at = 0.0

    @contextmanager
    def buying(self) -> Iterator[None]:
        """Buy for as long as the block runs; each buyer completes its last purchase."""
        self._done.clear()
        with ThreadPoolExecutor(BUYERS) as pool:
            purchases = [pool.submit(self._buy_until_done) for _ in range(BUYERS)]
            try:
                yield
            finally:
                self._done.set()
            for purchase in purchases:
                purchase.result()

    def wait_until_served(self, after: float) -> float:
        """Wait for a reservation acknowledged after a time; return the seconds between."""
        wait_long(lambda: self.served_at > after)
        return self.served_at - after

    def wait_until_more_are_served(self, how_many: int = 100) -> None:
        """Wait until so many more buyers have their tickets."""
        before = len(self.reserved)
        wait_long(lambda: len(self.reserved) >= before + how_many)

    def _buy_until_done(self) -> None:
        with Client(base_url=self._url, timeout=WAIT_SECONDS) as client:
            while not self._done.is_set():
                self._buy(client, f"buyer-{next(self._numbers)}")

    def _buy(self, client: Client, user: str) -> None:
        def reserve() -> httpx2.Response:
            return client.reserve(self._event, 2, user, key=f"order-of-{user}")

        response, _ = self._retry("reserve", reserve)
        assert response.status_code == 201, response.text
        self.served_at = time.monotonic()
        tickets = [ticket["id"] for ticket in response.json()]
        self.reserved[user] = tickets
        response, was_unknown = self._retry("pay", lambda: client.pay(tickets[0], user))
        if response.status_code != 200:
            # A payment has no key: the retry of a successful one is refused.
            assert was_unknown, response.text
            assert code(response) == (409, "ALREADY_PURCHASED")
        self.paid.add(tickets[0])

    def _retry(
        self, verb: str, send: Callable[[], httpx2.Response]
    ) -> tuple[httpx2.Response, bool]:
        """Send until the response is no 503; return it, and whether an outcome was unknown."""
        was_unknown = False
        deadline = time.monotonic() + 60
        while True:
            response = send()
            error_code = response.json()["code"] if response.status_code >= 400 else ""
            self.responses[verb, response.status_code, error_code] += 1
            if response.status_code != 503:
                return response, was_unknown
            assert time.monotonic() < deadline, response.text
            was_unknown |= error_code == "OUTCOME_UNKNOWN"
            time.sleep(0.1)  # these clients ignore Retry-After


def unused_port() -> int:
    """Return a port that is not in use and is outside the range of ephemeral ports."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)):
                return port


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    """A primary and its synchronous standby."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def lost_purchases(database: Database, buyers: Buyers) -> tuple[set[str], set[str]]:
    """Return the acknowledged reservations and payments that the database does not have."""
    rows = database.psql("select user_fingerprint, id, status from ticket_allocations")
    status_by_ticket = {
        (user, ticket): status for user, ticket, status in (row.split("|") for row in rows)
    }
    unreserved = {
        user
        for user, tickets in buyers.reserved.items()
        if any((user, ticket) not in status_by_ticket for ticket in tickets)
    }
    purchased = {
        ticket for (_, ticket), status in status_by_ticket.items() if status == "purchased"
    }
    return unreserved, buyers.paid - purchased


def check_promises(database: Database, client: Client, event: str, buyers: Buyers) -> None:
    """Assert that nothing acknowledged is lost or doubled, and that the books add up."""
    assert lost_purchases(database, buyers) == (set(), set())
    # Each key has one reservation of two tickets, those that were acknowledged.
    doubled = "select user_fingerprint from ticket_allocations group by 1 having count(*) <> 2"
    assert database.psql(doubled) == []
    for user, tickets in list(buyers.reserved.items())[-200:]:
        replay = client.reserve(event, 2, user, key=f"order-of-{user}")
        assert (replay.status_code, replay.headers["Idempotency-Replayed"]) == (201, "true")
        assert [ticket["id"] for ticket in replay.json()] == tickets
    assert {status for _, status, _ in buyers.responses} <= {200, 201, 409, 503}
    process = subprocess.run(
        [sys.executable, "-m", "service", "audit"],
        env={**os.environ, "DATABASE_URL": database.dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def fail_over(cluster: Cluster, buyers: Buyers, *, cut_off: bool) -> None:
    """Kill the primary during the sale and promote the standby.

    Args:
        cluster: the cluster.
        buyers: the buyers of the sale.
        cut_off: whether replication stops first, so that commits wait for the standby.
    """
    buyers.wait_until_more_are_served()
    if cut_off:
        cluster.cut_off()
        wait_until(lambda: cluster.primary.query(WAITING_COMMITS) != [])
    cluster.primary.kill()
    seconds = buyers.wait_until_served(after=cluster.promote())
    log.info(
        "first reservation %.1f s after the promotion; responses so far: %s",
        seconds,
        buyers.responses,
    )
    assert seconds < MAX_OUTAGE_SECONDS


def test_a_service_does_not_start_on_a_standby(cluster: Cluster) -> None:
    standby = f"postgresql://holdfast:{PASSWORD}@127.0.0.1:{cluster.standby.port}/holdfast"
    error = error_line(holdfast("serve", database_url=standby, seconds=20))
    assert error == "holdfast: this PostgreSQL is a read-only standby: use its primary\n"


def test_a_failover_loses_nothing_acknowledged(cluster: Cluster) -> None:
    database = cluster.database
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=1_000_000)
        buyers = Buyers(str(client.base_url), event)
        with buyers.buying():
            fail_over(cluster, buyers, cut_off=True)
            cluster.add_standby()
            buyers.wait_until_more_are_served()
        check_promises(database, client, event, buyers)


def test_a_failover_without_a_synchronous_standby_loses_tickets(cluster: Cluster) -> None:
    cluster.primary.set("synchronous_standby_names", "")
    database = cluster.database
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=1_000_000)
        buyers = Buyers(str(client.base_url), event)
        with buyers.buying():
            buyers.wait_until_more_are_served()
            cluster.cut_off()
            buyers.wait_until_more_are_served()
        cluster.primary.kill()
        cluster.promote()
        unreserved, unpaid = lost_purchases(database, buyers)
        assert unreserved
        assert unpaid


def test_a_commit_without_its_standby_waits_and_is_not_acknowledged(
    cluster: Cluster,
) -> None:
    with run_service(cluster.database) as client:
        event = client.create_event(tickets=10)
        (held,) = client.hold(event)
        cluster.standby.stop()
        assert code(client.reserve(event, 2, "bob", key="k")) == (503, "OUTCOME_UNKNOWN")
        # No timeout of PostgreSQL ends the wait, and the event stays locked until then.
        assert code(client.pay(held)) == (503, "BUSY")
        assert code(client.reserve(event, 2, "bob", key="k")) == (503, "BUSY")
        assert client.find_event(event)["allocatedTickets"] == 1
        cluster.standby.start()
        wait_until(lambda: client.find_event(event)["allocatedTickets"] == 3)
        replay = client.reserve(event, 2, "bob", key="k")
        assert (replay.status_code, replay.headers["Idempotency-Replayed"]) == (201, "true")
        assert len(replay.json()) == 2
        assert client.pay(held).status_code == 200
        assert client.find_event(event)["allocatedTickets"] == 3
    cluster.database.check_books()


def test_a_commit_whose_wait_is_cancelled_has_an_unknown_outcome(
    cluster: Cluster,
) -> None:
    with run_service(cluster.database) as client, ThreadPoolExecutor(1) as pool:
        event = client.create_event(tickets=10)
        cluster.standby.stop()
        for _ in range(2):
            # The replay locks the event, and so its commit waits for the standby, too.
            response = pool.submit(client.reserve, event, 2, "bob", key="k")
            wait_until(lambda: cluster.primary.query(WAITING_COMMITS) != [])
            cluster.primary.query(
                f"select pg_cancel_backend(pid) from ({WAITING_COMMITS}) as waiting"
            )
            assert code(response.result()) == (503, "OUTCOME_UNKNOWN")
            assert response.result().elapsed.total_seconds() < DEADLINE_SECONDS
            # The reservation is visible, but a failover could still lose it.
            assert client.find_event(event)["allocatedTickets"] == 2
        cluster.standby.start()
        replay = client.reserve(event, 2, "bob", key="k")
        assert (replay.status_code, replay.headers["Idempotency-Replayed"]) == (201, "true")
        assert len(replay.json()) == 2
        assert client.find_event(event)["allocatedTickets"] == 2
    cluster.database.check_books()


@pytest.mark.slow
def test_ten_failovers_lose_nothing_acknowledged(cluster: Cluster) -> None:
    database = cluster.database
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=1_000_000)
        buyers = Buyers(str(client.base_url), event)
        with buyers.buying():
            for number in range(10):
                fail_over(cluster, buyers, cut_off=number % 2 == 1)
                cluster.add_standby()
        check_promises(database, client, event, buyers)
