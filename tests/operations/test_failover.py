"""Failover: what was acknowledged outlives the primary, while a standby has to confirm it.

Two PostgreSQLs of the test's own stand in for a cluster, and the test does by hand what
Patroni does with ``synchronous_mode``: a standby is waited for once it has caught up, only
one that was waited for is promoted, and a primary that has no standby waits for none.
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
from service.embedded.parent import ending_with
from service.embedded.programs import find_programs
from service.limits import DEADLINE_SECONDS
from service.settings import resource
from tests.support.client import Client, code
from tests.support.database import SERVICE_ROLE, Database
from tests.support.services import serving
from tests.support.waiting import WAIT_SECONDS, wait_until

log = logging.getLogger(__name__)

PASSWORD = secrets.token_hex()
BUYERS = 16
GOES_ON_SECONDS = 10
"""From the promotion to the first buyer who is served: a generous bound, and not a measure."""
WAITING = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
"""Who waits for a standby to confirm a commit."""


def wait_long(holds: Callable[[], bool]) -> None:
    """Wait as ``wait_until`` does for what a whole cluster has to do."""
    for _ in range(3):
        try:
            return wait_until(holds)
        except AssertionError:
            continue
    return wait_until(holds)


class Node:
    """A PostgreSQL on the loopback, now the primary, now the standby."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port = unused_port()
        self._programs = find_programs().within_reach(folder)
        self._data = folder / name
        self._log = folder / f"{name}.log"
        self._server: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        """Make an empty cluster."""
        secret = self._data.with_suffix(".password")
        secret.write_text(PASSWORD)
        self._programs.give_away(secret)
        self._programs.run(
            "initdb",
            *(f"--pgdata={self._data}", "--username=holdfast", f"--pwfile={secret}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
        )

    def copy(self, primary: "Node") -> None:
        """Become a copy of the primary, ready to be its standby, whatever was here before."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._programs.run(
            "pg_basebackup",
            *(f"--pgdata={self._data}", f"--dbname={primary._conninfo}"),
            *("--write-recovery-conf", "--checkpoint=fast"),
        )

    def start(self) -> None:
        """Start it, and wait until it can be asked."""
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(self._programs["postgres"], "-D", str(self._data), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    # By this name a primary knows its standby.
                    *("-c", f"cluster_name={self.name}"),
                    # A primary that is gone is asked for again at once.
                    *("-c", "wal_retrieve_retry_interval=100ms"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
                preexec_fn=ending_with(os.getpid(), signal.SIGINT),
                **self._programs.as_account(),
            )
        wait_long(self._answers)

    def stop(self) -> None:
        """Stop it as ``pg_ctl stop -m fast`` does."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait()
            self._server = None

    def kill(self) -> None:
        """End all of its processes at once, as the end of its machine would."""
        assert self._server is not None
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue  # its parent's end was its own
        self._server.wait()
        self._server = None

    def ask(self, sql: str) -> list[Any]:
        """Run one statement as the owner, and return the first column of its rows."""
        with psycopg.connect(self._conninfo, dbname="postgres", autocommit=True) as connection:
            done = connection.execute(sql.encode())
            return [row[0] for row in done.fetchall()] if done.description else []

    def set(self, name: str, value: str) -> None:
        """Set what the server reads from its configuration, and wait until it has read it."""
        self.ask(f"alter system set {name} = '{value}'")
        self.ask("select pg_reload_conf()")
        wait_until(lambda: self.ask(f"show {name}") == [value])

    @property
    def _conninfo(self) -> str:
        return f"user=holdfast password={PASSWORD} host=127.0.0.1 port={self.port}"

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self._log.read_text()[-1000:]
        try:
            return self.ask("select 1") == [1]
        except psycopg.OperationalError:
            return False


class Cluster:
    """A primary and its standby."""

    def __init__(self, folder: Path) -> None:
        find_programs().give_away(folder)
        self.primary, self.standby = Node(folder, "one"), Node(folder, "two")

    @property
    def database(self) -> Database:
        """The database, on whichever of the two can be written to."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        asked = f"target_session_attrs=read-write&password={PASSWORD}"
        return Database(f"postgresql://holdfast@{hosts}/holdfast?{asked}")

    def start(self) -> None:
        """Start both, with a migrated database on them."""
        self.primary.initialise()
        self.primary.start()
        self.primary.ask("create database holdfast")
        self.primary.ask(f"create role {SERVICE_ROLE} login password '{PASSWORD}'")
        statements = load_statements(resource("sql"))
        migrate(self.database.dsn, statements)
        grant(self.database.dsn, statements, SERVICE_ROLE)
        self.add_standby()

    def add_standby(self) -> None:
        """Make the other node a standby of the primary, and the synchronous one."""
        self.standby.copy(self.primary)
        self.standby.start()
        self.wait_for_standby()

    def wait_for_standby(self) -> None:
        """Have commits wait for the standby, once it streams."""
        streams = "select application_name from pg_stat_replication where state = 'streaming'"
        wait_long(lambda: self.primary.ask(streams) == [self.standby.name])
        self.primary.set("synchronous_standby_names", self.standby.name)
        # What was committed while none was waited for is there, too.
        (written,) = self.primary.ask("select pg_current_wal_lsn()")
        confirmed = f"sync_state = 'sync' and flush_lsn >= '{written}'"
        asked = f"select {confirmed} from pg_stat_replication"
        wait_long(lambda: self.primary.ask(asked) == [True])

    def cut_off(self) -> None:
        """End what flows from the primary to the standby; both live on."""
        self.standby.set("primary_conninfo", "")
        wait_long(lambda: self.primary.ask("select 1 from pg_stat_replication") == [])

    def promote(self) -> float:
        """Make the standby of a primary that is gone the primary; return when it became so."""
        self.primary, self.standby = self.standby, self.primary
        # It waits for no standby: it was copied before its primary waited for it.
        assert self.primary.ask("select pg_promote()") == [True]
        return time.monotonic()

    def stop(self) -> None:
        """Stop both."""
        self.standby.stop()
        self.primary.stop()


class Buyers:
    """People who reserve two tickets with a key and pay for one, and repeat what got no answer."""

    def __init__(self, url: str, event: str) -> None:
        self._url, self._event = url, event
        self._numbers = iter(range(1_000_000))
        self._going_home = threading.Event()
        self.answers: Counter[tuple[str, int, str]] = Counter()
        self.reserved: dict[str, list[str]] = {}
        """By buyer: the tickets of which the service has said that they are theirs."""
        self.paid: set[str] = set()
        """The tickets of which the service has said that they are paid for."""
        self.served_at = 0.0
        """When a reservation was last acknowledged."""

    @contextmanager
    def buying(self) -> Iterator[None]:
        """Have them come for as long as the block runs; then each ends what was begun."""
        self._going_home.clear()
        with ThreadPoolExecutor(BUYERS) as pool:
            several = [pool.submit(self._come) for _ in range(BUYERS)]
            try:
                yield
            finally:
                self._going_home.set()
            for one in several:
                one.result()

    def wait_until_served(self, after: float) -> float:
        """Wait until somebody was served after a moment, and return how long after."""
        wait_long(lambda: self.served_at > after)
        return self.served_at - after

    def wait_until_more_are_served(self, how_many: int = 100) -> None:
        """Wait until so many more have their tickets."""
        before = len(self.reserved)
        wait_long(lambda: len(self.reserved) >= before + how_many)

    def _come(self) -> None:
        with Client(base_url=self._url, timeout=WAIT_SECONDS) as client:
            while not self._going_home.is_set():
                self._buy(client, f"buyer-{next(self._numbers)}")

    def _buy(self, client: Client, user: str) -> None:
        def reserve() -> httpx2.Response:
            return client.reserve(self._event, 2, user, key=f"order-of-{user}")

        answer, _ = self._repeated("reserve", reserve)
        assert answer.status_code == 201, answer.text
        self.served_at = time.monotonic()
        tickets = [ticket["id"] for ticket in answer.json()]
        self.reserved[user] = tickets
        answer, was_unknown = self._repeated("pay", lambda: client.pay(tickets[0], user))
        if answer.status_code != 200:
            # A payment has no key: whoever repeats it is told that it was done.
            assert was_unknown, answer.text
            assert code(answer) == (409, "ALREADY_PURCHASED")
        self.paid.add(tickets[0])

    def _repeated(
        self, verb: str, ask: Callable[[], httpx2.Response]
    ) -> tuple[httpx2.Response, bool]:
        """Ask until there is an answer; return it, and whether an outcome was unknown before."""
        was_unknown = False
        deadline = time.monotonic() + 60
        while True:
            answer = ask()
            told = answer.json()["code"] if answer.status_code >= 400 else ""
            self.answers[verb, answer.status_code, told] += 1
            if answer.status_code != 503:
                return answer, was_unknown
            assert time.monotonic() < deadline, answer.text
            was_unknown |= told == "OUTCOME_UNKNOWN"
            time.sleep(0.1)  # a crowd that does not heed Retry-After


def unused_port() -> int:
    """Return a port that nobody listens on and that no client is given for its own end."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as free:
            if free.connect_ex(("127.0.0.1", port)):
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


def lost(database: Database, buyers: Buyers) -> tuple[set[str], set[str]]:
    """Return the acknowledged reservations and payments that the database does not have."""
    rows = database.psql("select user_fingerprint, id, status from ticket_allocations")
    there = {(user, ticket): status for user, ticket, status in (row.split("|") for row in rows)}
    unreserved = {
        user
        for user, tickets in buyers.reserved.items()
        if any((user, ticket) not in there for ticket in tickets)
    }
    purchased = {ticket for (_, ticket), status in there.items() if status == "purchased"}
    return unreserved, buyers.paid - purchased


def holds_what_it_promised(database: Database, client: Client, event: str, buyers: Buyers) -> None:
    """Assert that nothing acknowledged is lost, nothing is doubled, and all books are level."""
    assert lost(database, buyers) == (set(), set())
    # Each key has one reservation, of two tickets: its own, and the same as it was told.
    doubled = "select user_fingerprint from ticket_allocations group by 1 having count(*) <> 2"
    assert database.psql(doubled) == []
    for user, tickets in list(buyers.reserved.items())[-200:]:
        again = client.reserve(event, 2, user, key=f"order-of-{user}")
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert [ticket["id"] for ticket in again.json()] == tickets
    assert {status for _, status, _ in buyers.answers} <= {200, 201, 409, 503}
    audited = subprocess.run(
        [sys.executable, "-m", "service", "audit"],
        env={**os.environ, "DATABASE_URL": database.dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert audited.returncode == 0, audited.stdout + audited.stderr


def fail_over(cluster: Cluster, buyers: Buyers, *, cut_off: bool) -> None:
    """Kill the primary under the crowd and promote the standby.

    Args:
        cluster: whose.
        buyers: who are buying.
        cut_off: whether the standby has lost the primary before, and buyers wait for it.
    """
    buyers.wait_until_more_are_served()
    if cut_off:
        cluster.cut_off()
        wait_until(lambda: cluster.primary.ask(WAITING) != [])
    cluster.primary.kill()
    seconds = buyers.wait_until_served(after=cluster.promote())
    log.info("served %.1f s after the promotion; told so far: %s", seconds, buyers.answers)
    assert seconds < GOES_ON_SECONDS


def test_a_failover_loses_nothing_that_was_acknowledged(cluster: Cluster) -> None:
    database = cluster.database
    with serving(database, workers=2) as client:
        event = client.create_event(tickets=1_000_000)
        buyers = Buyers(str(client.base_url), event)
        with buyers.buying():
            fail_over(cluster, buyers, cut_off=True)
            cluster.add_standby()
            buyers.wait_until_more_are_served()
        holds_what_it_promised(database, client, event, buyers)


def test_where_no_standby_is_waited_for_the_same_failover_loses_tickets(cluster: Cluster) -> None:
    cluster.primary.set("synchronous_standby_names", "")
    database = cluster.database
    with serving(database, workers=2) as client:
        event = client.create_event(tickets=1_000_000)
        buyers = Buyers(str(client.base_url), event)
        with buyers.buying():
            buyers.wait_until_more_are_served()
            cluster.cut_off()
            buyers.wait_until_more_are_served()
        cluster.primary.kill()
        cluster.promote()
        unreserved, unpaid = lost(database, buyers)
        assert unreserved
        assert unpaid


def test_without_its_standby_a_commit_waits_and_nobody_is_told_that_it_is_done(
    cluster: Cluster,
) -> None:
    with serving(cluster.database) as client:
        event = client.create_event(tickets=10)
        (held,) = client.hold(event)
        cluster.standby.stop()
        assert code(client.reserve(event, 2, "bob", key="k")) == (503, "OUTCOME_UNKNOWN")
        # No timeout of PostgreSQL ends the wait, and until then the event is locked.
        assert code(client.pay(held)) == (503, "BUSY")
        assert code(client.reserve(event, 2, "bob", key="k")) == (503, "BUSY")
        assert client.event(event)["allocatedTickets"] == 1
        cluster.standby.start()
        wait_until(lambda: client.event(event)["allocatedTickets"] == 3)
        again = client.reserve(event, 2, "bob", key="k")
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert len(again.json()) == 2
        assert client.pay(held).status_code == 200
        assert client.event(event)["allocatedTickets"] == 3
    cluster.database.adds_up()


def test_a_commit_that_is_made_to_wait_no_longer_is_unknown_until_the_standby_is_back(
    cluster: Cluster,
) -> None:
    with serving(cluster.database) as client, ThreadPoolExecutor(1) as pool:
        event = client.create_event(tickets=10)
        cluster.standby.stop()
        for _ in range(2):
            # The repeat locks the event, and so waits for the standby as its original did.
            answer = pool.submit(client.reserve, event, 2, "bob", key="k")
            wait_until(lambda: cluster.primary.ask(WAITING) != [])
            cluster.primary.ask(f"select pg_cancel_backend(pid) from ({WAITING}) as waiting")
            assert code(answer.result()) == (503, "OUTCOME_UNKNOWN")
            assert answer.result().elapsed.total_seconds() < DEADLINE_SECONDS
            # It is there for everybody to see, and a failover could still lose it.
            assert client.event(event)["allocatedTickets"] == 2
        cluster.standby.start()
        again = client.reserve(event, 2, "bob", key="k")
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert len(again.json()) == 2
        assert client.event(event)["allocatedTickets"] == 2
    cluster.database.adds_up()


@pytest.mark.slow
def test_ten_failovers_lose_nothing_that_was_acknowledged(cluster: Cluster) -> None:
    database = cluster.database
    with serving(database, workers=2) as client:
        event = client.create_event(tickets=1_000_000)
        buyers = Buyers(str(client.base_url), event)
        with buyers.buying():
            for number in range(10):
                fail_over(cluster, buyers, cut_off=number % 2 == 1)
                cluster.add_standby()
        holds_what_it_promised(database, client, event, buyers)
