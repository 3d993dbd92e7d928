"""Backups taken during a sale are consistent and have everything acknowledged before."""

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
from tests.support.database import SERVICE_ROLE, Database, create_database
from tests.support.services import Starter, run_service
from tests.support.waiting import wait_until

log = logging.getLogger(__name__)

BUYERS = 8
STATEMENTS = load_statements(resource("sql"))


@dataclass
class Buyers:
    """Buyers that reserve with keys and pay, and the tickets that the service acknowledged."""

    keys: set[str] = field(default_factory=set)
    # The tickets by key, which is also the fingerprint.
    reserved: dict[str, list[str]] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)

    def snapshot(self) -> "Buyers":
        """Return a copy of what was acknowledged so far."""
        return Buyers(set(self.keys), dict(self.reserved), set(self.paid))

    def wait_for_more(self, how_many: int = 100) -> None:
        """Wait until so many more tickets are paid."""
        goal = len(self.paid) + how_many
        wait_until(lambda: len(self.paid) >= goal)

    @contextmanager
    def buying(self, client: Client, event: str) -> Iterator[None]:
        """Buy for as long as the block runs."""
        numbers, done = itertools.count(), threading.Event()

        def buy() -> None:
            while not done.is_set():
                key = f"order-{next(numbers)}"
                self.keys.add(key)
                response = client.reserve(event, 2, key, key)
                if response.status_code == 201:
                    tickets = [ticket["id"] for ticket in response.json()]
                    self.reserved[key] = tickets
                    if client.pay(tickets[0], key).status_code == 200:
                        self.paid.add(tickets[0])

        threads = [threading.Thread(target=buy) for _ in range(BUYERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()


def contains_purchases(database: Database, snapshot: Buyers) -> bool:
    """Return whether a database has every acknowledged reservation and payment."""
    tickets_in_database = set(database.psql("select id from ticket_allocations"))
    paid = set(database.psql("select id from ticket_allocations where status = 'purchased'"))
    return (
        set(itertools.chain(*snapshot.reserved.values())) <= tickets_in_database
        and snapshot.paid <= paid
    )


def allocated_tickets(database: Database) -> int:
    """Return how many tickets of the event are sold or held."""
    (count,) = database.psql("select allocated_tickets from events")
    return int(count)


def test_a_dump_has_every_ticket_acknowledged_before_it(
    database: Database, server: str, start: Starter, folder: Path
) -> None:
    programs = find_programs().make_accessible(folder)
    programs.chown(folder)
    file, buyers = folder / "sale.dump", Buyers()
    with start(database).client() as client:
        event = client.create_event(tickets=1_000_000)
        with buyers.buying(client, event):
            buyers.wait_for_more()
            before = buyers.snapshot()
            programs.run("pg_dump", "--format=custom", f"--file={file}", f"--dbname={database.dsn}")
            buyers.wait_for_more()
    with create_database(server) as restored:
        dsn = f"--dbname={restored.dsn}"
        programs.run("pg_restore", "--exit-on-error", "--no-owner", dsn, str(file))
        restored.check_books()
        assert contains_purchases(restored, before)
        assert not contains_purchases(restored, buyers)
        assert allocated_tickets(restored) < allocated_tickets(database)
        service = start(restored)
        with service.client() as client:
            for key, tickets in list(before.reserved.items())[:5]:
                replay = client.reserve(event, 2, key, key).json()
                assert [ticket["id"] for ticket in replay] == tickets
            client.hold(event)
        service.stop()
        restored.check_books()


@contextmanager
def receive_wal(dsn: str, wal: Path) -> Iterator[None]:
    """Receive the WAL of a server while the block runs."""
    programs = find_programs().make_accessible(wal.parent)
    slot = (f"--dbname={dsn}", "--slot=backup")
    programs.run("pg_receivewal", *slot, "--create-slot")
    receiver = subprocess.Popen(
        [programs["pg_receivewal"], *slot, "--synchronous", f"--directory={wal}"],
        **programs.account_options(),
    )
    try:
        yield
    finally:
        receiver.terminate()
        receiver.wait()


def restore(base: Path, wal: Path, data_dir: Path, recovery_target: str | None) -> EmbeddedPostgres:
    """Copy a base backup into a server that recovers, when it starts, to a time or to the end."""
    restored = EmbeddedPostgres(data_dir)
    data_dir.mkdir(mode=0o755)
    subprocess.run(["/bin/cp", "-a", base, restored.cluster], check=True)
    lines = [f'restore_command = \'cp {wal}/%f "%p" || cp {wal}/%f.partial "%p"\'']
    if recovery_target:
        lines += [
            f"recovery_target_time = '{recovery_target}'",
            "recovery_target_action = 'promote'",
        ]
    with (restored.cluster / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join(lines) + "\n")
    (restored.cluster / "recovery.signal").touch()
    return restored


@pytest.mark.slow
def test_a_base_backup_and_its_wal_restore_any_moment(folder: Path) -> None:
    programs = find_programs().make_accessible(folder)
    base, wal, buyers = folder / "base", folder / "wal", Buyers()
    wal.mkdir()
    programs.chown(folder)
    programs.chown(wal)
    with EmbeddedPostgres(folder / "original") as postgres:
        original = Database(str(postgres.dsn))
        migrate(original.dsn, STATEMENTS)
        original.psql(f"create role {SERVICE_ROLE} login")
        grant(original.dsn, STATEMENTS, SERVICE_ROLE)
        with receive_wal(original.dsn, wal):
            with run_service(original) as client:
                event = client.create_event(tickets=1_000_000)
                with buyers.buying(client, event):
                    buyers.wait_for_more()
                    before_copy = buyers.snapshot()
                    copy = (f"--dbname={original.dsn}", f"--pgdata={base}", "--checkpoint=fast")
                    programs.run("pg_basebackup", *copy)
                    buyers.wait_for_more()
                    before_moment = buyers.snapshot()
                    allocated_at_moment = allocated_tickets(original)
                    (moment,) = original.psql("select clock_timestamp()")
                    keys_before_moment = set(buyers.keys)
                    buyers.wait_for_more()
            # Wait until the receiver has the last WAL record.
            (last,) = original.psql("select pg_current_wal_lsn()")
            flushed = f"select flush_lsn >= '{last}' from pg_stat_replication"
            wait_until(lambda: original.psql(flushed) == ["t"])
        original.check_books()
    counts = len(before_copy.paid), allocated_at_moment
    for recovery_target, target_name in ((moment, "moment"), (None, "end")):
        with restore(base, wal, folder / target_name, recovery_target) as postgres:
            restored = Database(str(postgres.dsn))
            restored.check_books()
            assert contains_purchases(restored, before_copy)
            assert contains_purchases(restored, before_moment)
            assert contains_purchases(restored, buyers) == (recovery_target is None)
            log.info(
                "restored to the %s: %s tickets before the copy and at the moment, %s restored",
                target_name,
                counts,
                allocated_tickets(restored),
            )
            if recovery_target:
                fingerprints = set(restored.psql("select user_fingerprint from ticket_allocations"))
                assert fingerprints <= keys_before_moment
                assert allocated_tickets(restored) >= allocated_at_moment
