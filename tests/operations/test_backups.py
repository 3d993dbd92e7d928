"""Backups: taken while a crowd buys, they add up and have all that was acknowledged before."""

import itertools
import logging
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.database.grants import grant
from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import find_programs
from service.settings import resource
from tests.support.client import Client
from tests.support.database import SERVICE_ROLE, Database, created
from tests.support.services import Starter, serving
from tests.support.waiting import wait_until

log = logging.getLogger(__name__)

BUYERS = 8
STATEMENTS = load_statements(resource("sql"))


@dataclass
class Buyers:
    """A crowd that reserves with keys and pays, and what it was told is its own."""

    asked: set[str] = field(default_factory=set)
    reserved: dict[str, list[str]] = field(default_factory=dict)
    """By key, the tickets; it is the fingerprint, too."""
    paid: set[str] = field(default_factory=set)

    def told(self) -> "Buyers":
        """Return what it was told so far."""
        return Buyers(set(self.asked), dict(self.reserved), set(self.paid))

    def wait_for_more(self, how_many: int = 100) -> None:
        """Wait until so many more have paid."""
        goal = len(self.paid) + how_many
        wait_until(lambda: len(self.paid) >= goal)

    @contextmanager
    def buying(self, client: Client, event: str) -> Iterator[None]:
        """Buy for as long as the block runs."""
        numbers, done = itertools.count(), threading.Event()

        def buy() -> None:
            while not done.is_set():
                key = f"order-{next(numbers)}"
                self.asked.add(key)
                answer = client.reserve(event, 2, key, key)
                if answer.status_code == 201:
                    tickets = [ticket["id"] for ticket in answer.json()]
                    self.reserved[key] = tickets
                    if client.pay(tickets[0], key).status_code == 200:
                        self.paid.add(tickets[0])

        crowd = [threading.Thread(target=buy) for _ in range(BUYERS)]
        for one in crowd:
            one.start()
        try:
            yield
        finally:
            done.set()
            for one in crowd:
                one.join()


def has(database: Database, told: Buyers) -> bool:
    """Whether all that buyers were told is theirs is in a database."""
    there = set(database.psql("select id from ticket_allocations"))
    paid = set(database.psql("select id from ticket_allocations where status = 'purchased'"))
    return set(itertools.chain(*told.reserved.values())) <= there and told.paid <= paid


def sold(database: Database) -> int:
    """Return how many tickets an event has sold or holds."""
    (count,) = database.psql("select allocated_tickets from events")
    return int(count)


def test_a_dump_has_all_that_was_acknowledged_before_it_began(
    database: Database, server: str, start: Starter, folder: Path
) -> None:
    programs = find_programs().within_reach(folder)
    programs.give_away(folder)
    file, buyers = folder / "sale.dump", Buyers()
    with start(database).client() as client:
        event = client.create_event(tickets=1_000_000)
        with buyers.buying(client, event):
            buyers.wait_for_more()
            before = buyers.told()
            programs.run("pg_dump", "--format=custom", f"--file={file}", f"--dbname={database.dsn}")
            buyers.wait_for_more()
    with created(server) as restored:
        dsn = f"--dbname={restored.dsn}"
        programs.run("pg_restore", "--exit-on-error", "--no-owner", dsn, str(file))
        restored.adds_up()
        assert has(restored, before)
        assert not has(restored, buyers)
        assert sold(restored) < sold(database)
        service = start(restored)
        with service.client() as client:
            for key, tickets in list(before.reserved.items())[:5]:
                repeated = client.reserve(event, 2, key, key).json()
                assert [ticket["id"] for ticket in repeated] == tickets
            client.hold(event)
        service.stop()
        restored.adds_up()


@contextmanager
def receiving(dsn: str, wal: Path) -> Iterator[None]:
    """Receive a server's WAL as it is written."""
    programs = find_programs().within_reach(wal.parent)
    slot = (f"--dbname={dsn}", "--slot=backup")
    programs.run("pg_receivewal", *slot, "--create-slot")
    receiver = subprocess.Popen(
        [programs["pg_receivewal"], *slot, "--synchronous", f"--directory={wal}"],
        **programs.as_account(),
    )
    try:
        yield
    finally:
        receiver.terminate()
        receiver.wait()


def restore(base: Path, wal: Path, data_dir: Path, until: str | None) -> EmbeddedPostgres:
    """Make a copy into a server that, when it is started, goes to a moment, or to the end."""
    restored = EmbeddedPostgres(data_dir)
    data_dir.mkdir(mode=0o755)
    subprocess.run(["/bin/cp", "-a", base, restored.cluster], check=True)
    lines = [f'restore_command = \'cp {wal}/%f "%p" || cp {wal}/%f.partial "%p"\'']
    if until:
        lines += [f"recovery_target_time = '{until}'", "recovery_target_action = 'promote'"]
    with (restored.cluster / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join(lines) + "\n")
    (restored.cluster / "recovery.signal").touch()
    return restored


@pytest.mark.slow
def test_a_copy_and_its_wal_go_back_to_any_moment(folder: Path) -> None:
    programs = find_programs().within_reach(folder)
    base, wal, buyers = folder / "base", folder / "wal", Buyers()
    wal.mkdir()
    for one in (folder, wal):
        programs.give_away(one)
    with EmbeddedPostgres(folder / "original") as postgres:
        original = Database(str(postgres.dsn))
        migrate(original.dsn, STATEMENTS)
        original.psql(f"create role {SERVICE_ROLE} login")
        grant(original.dsn, STATEMENTS, SERVICE_ROLE)
        with receiving(original.dsn, wal):
            with serving(original) as client:
                event = client.create_event(tickets=1_000_000)
                with buyers.buying(client, event):
                    buyers.wait_for_more()
                    before_the_copy = buyers.told()
                    copy = (f"--dbname={original.dsn}", f"--pgdata={base}", "--checkpoint=fast")
                    programs.run("pg_basebackup", *copy)
                    buyers.wait_for_more()
                    before_the_moment = buyers.told()
                    at_the_moment = sold(original)
                    (moment,) = original.psql("select clock_timestamp()")
                    asked_by_then = set(buyers.asked)
                    buyers.wait_for_more()
            # The receiver has it all when it has what was written last.
            (last,) = original.psql("select pg_current_wal_lsn()")
            flushed = f"select flush_lsn >= '{last}' from pg_stat_replication"
            wait_until(lambda: original.psql(flushed) == ["t"])
        original.adds_up()
    told = len(before_the_copy.paid), at_the_moment
    for until, where in ((moment, "moment"), (None, "end")):
        with restore(base, wal, folder / where, until) as postgres:
            restored = Database(str(postgres.dsn))
            restored.adds_up()
            assert has(restored, before_the_copy)
            assert has(restored, before_the_moment)
            assert has(restored, buyers) == (until is None)
            log.info(
                "to the %s: %s before the copy, at the moment; %s", where, told, sold(restored)
            )
            if until:
                fingerprints = set(restored.psql("select user_fingerprint from ticket_allocations"))
                assert fingerprints <= asked_by_then
                assert sold(restored) >= at_the_moment
