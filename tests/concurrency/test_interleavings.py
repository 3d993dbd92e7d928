"""Interleavings: two who meet at one event, a statement at a time, with each guard and without it.

They are drawn in docs/explanation/never-oversell.md. Each session sends the statements of ``sql/``
in the order in which a batch does; where one has to wait, PostgreSQL says that it does.
"""

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from service.database.connections import ADAPTERS
from service.database.statements import load_statements
from service.rows import Uuid
from service.settings import resource
from tests.benchmarks.ticket_rows import CREATE_ROWS, FILL, TAKE
from tests.support.batches import carry_out, outcome_codes, reserve
from tests.support.client import code
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.waiting import wait_until

LOCK = (("lock_events.sql", "for update of events", ""),)
CLOCK = (
    ("expire_tickets.sql", "<= statement_timestamp()", "<= now()"),
    ("pay_tickets.sql", "statement_timestamp()", "now()"),
)
ROW = (("pay_tickets.sql", "and (tickets.status = 'reserved') is true", ""),)
GUARDS = {"the lock": LOCK, "the clock": CLOCK, "the row read again": ROW}


class Session:
    """A transaction that sends one statement after the other, and may be left waiting."""

    def __init__(self, database: Database, event: str, folder: Path | None = None) -> None:
        self._database, self._event = database, event
        self._statements = load_statements(folder or resource("sql"))
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self.connection = psycopg.connect(
            self._database.dsn, context=ADAPTERS, application_name="stranger"
        )
        self.send("select")  # the transaction begins, and with it now()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self.connection.close()

    def send(self, statement: str, **values: Any) -> list[Any]:
        """Send a statement that is not one of the service's."""
        return self._send(statement.encode(), values)

    def lock(self) -> list[Any]:
        """Lock the event."""
        return self._run("lock_events", **self._concerned())

    def expire(self) -> int:
        """Free what is due, and return how many."""
        return sum(n for _, n in self._run("expire_tickets", most=1000, **self._concerned()))

    def reserve(self, user: str) -> str:
        """Ask for one ticket and return the outcome."""
        one = {"quantities": [1], "user_fingerprints": [user], "idempotency_keys": [""]}
        ((_, outcome, *_),) = self._run(
            "reserve_tickets", event_ids=[self._event], hold="900 s", **one
        )
        return str(outcome)

    def pay(self, ticket: str, user: str) -> str:
        """Pay for a ticket and return the outcome."""
        values = {"ticket_ids": [ticket], "reservation_ids": [None], "user_fingerprints": [user]}
        ((_, outcome, *_),) = self._run("pay_tickets", **values)
        return str(outcome)

    def waits(self, step: Any, *arguments: Any) -> "Future[Any]":
        """Take a step that has to wait for somebody's lock, and return its future."""
        future = self._pool.submit(step, *arguments)
        self._database.wait_until_blocked(application="stranger")
        return future

    def begins(self, step: Any) -> "Future[Any]":
        """Take a step that may have to wait, and return its future when it does, or is done."""
        future = self._pool.submit(step)
        waiting = (
            "select count(*) from pg_stat_activity "
            "where wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_until(lambda: future.done() or self._database.psql(waiting) == ["1"])
        return future

    def commit(self) -> None:
        """End the transaction; the next statement begins another."""
        self.connection.commit()

    def _concerned(self) -> dict[str, Any]:
        return {"event_ids": [self._event], "ticket_ids": [], "reservation_ids": []}

    def _run(self, name: str, **values: Any) -> list[Any]:
        return self._send(self._statements[name].query, values)

    def _send(self, query: bytes, values: dict[str, Any]) -> list[Any]:
        done = self.connection.execute(query, values)
        return done.fetchall() if done.description else []


def make_event(database: Database, tickets: int = 1) -> str:
    (id_,) = database.psql(
        "insert into events (name, date, total_tickets) "
        f"values ('Gig', '2030-01-01', {tickets}) returning id"
    )
    return id_


def taken(database: Database) -> int:
    """Return how many tickets are held or sold."""
    (n,) = database.psql(
        "select count(*) from ticket_allocations where status in ('reserved', 'purchased')"
    )
    return int(n)


def without(folder: Path, *guards: Sequence[tuple[str, str, str]]) -> Path:
    """Return a copy of sql/ that lacks some guards."""
    shutil.copytree(resource("sql"), folder, dirs_exist_ok=True)
    for file, guard, instead in chain.from_iterable(guards):
        text = (folder / file).read_text()
        assert text.count(guard) == 1, f"{file} does not have once: {guard}"
        (folder / file).write_text(text.replace(guard, instead))
    return folder


def test_every_test_that_the_explanation_names_exists() -> None:
    told = Path("docs/explanation/never-oversell.md").read_text()
    written = "".join(file.read_text() for file in Path("tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", told))
    assert named
    assert {name for name in named if f"def {name}(" not in written} == set()


def test_the_second_buyer_waits_for_the_lock_and_is_refused(
    database: Database,
) -> None:
    event = make_event(database)
    with Session(database, event) as a, Session(database, event) as b:
        a.lock()
        locked = b.waits(b.lock)
        assert a.reserve("alice") == "granted"
        a.commit()
        locked.result()
        assert b.reserve("bob") == "tickets_sold_out"
        b.commit()
    assert taken(database) == 1


def test_both_buyers_get_the_last_ticket_without_the_lock(
    unbalanced_database: Database, tmp_path: Path
) -> None:
    database, folder = unbalanced_database, without(tmp_path, LOCK)
    database.psql("alter table events drop constraint events_never_oversold")
    event = make_event(database)
    with Session(database, event, folder) as a, Session(database, event, folder) as b:
        a.lock()
        b.lock()
        assert a.reserve("alice") == "granted"
        # It has decided, and waits only to write the count, which it then adds to A's.
        reserving = b.waits(b.reserve, "bob")
        a.commit()
        assert reserving.result() == "granted"
        b.commit()
    assert database.psql("select allocated_tickets, total_tickets from events") == ["2|1"]
    assert taken(database) == 2


def test_the_check_constraint_aborts_the_second_sale_without_the_lock(
    database: Database, tmp_path: Path
) -> None:
    folder, event = without(tmp_path, LOCK), make_event(database)
    with Session(database, event, folder) as a, Session(database, event, folder) as b:
        a.lock()
        b.lock()
        assert a.reserve("alice") == "granted"
        reserving = b.waits(b.reserve, "bob")
        a.commit()
        with pytest.raises(psycopg.errors.CheckViolation, match="events_never_oversold"):
            reserving.result()
    assert taken(database) == 1


def test_a_statement_that_locks_and_counts_has_an_old_snapshot(
    database: Database,
) -> None:
    event = make_event(database)
    locks_and_counts = """
        select
            allocated_tickets,
            (select count(*) from ticket_allocations where event_id = events.id)
        from events where id = %(event)s::uuid for update
    """
    with Session(database, event) as a, Session(database, event) as b:
        a.lock()
        counting = b.waits(lambda: b.send(locks_and_counts, event=event))
        assert a.reserve("alice") == "granted"
        a.commit()
        # The row that was locked is read again; what was counted beside it is not.
        assert counting.result() == [(1, 0)]
        # The next statement has a snapshot of its own.
        assert b.send(locks_and_counts, event=event) == [(1, 1)]


def test_repeatable_read_aborts_the_second_transaction(database: Database) -> None:
    event = make_event(database)
    with Session(database, event) as a, Session(database, event) as b:
        b.commit()
        b.send("set transaction isolation level repeatable read")
        a.lock()
        # Its one snapshot is taken here, before the wait.
        locked = b.waits(b.lock)
        a.reserve("alice")
        a.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            locked.result()


@pytest.mark.parametrize(
    ("clock", "told"), [("statement_timestamp()", (410, "HOLD_EXPIRED")), ("now()", (200, ""))]
)
def test_a_hold_that_ends_during_the_wait_is_sold_only_with_an_early_clock(
    database: Database, start: Starter, tmp_path: Path, clock: str, told: tuple[int, str]
) -> None:
    folder = without(tmp_path, CLOCK) if clock == "now()" else resource("sql")
    service = start(database, sweeps=False, sql_dir=folder)
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        event = client.create_event(tickets=1)
        (ticket,) = client.hold(event)
        with database.lock_event(event) as rival:
            paying = pool.submit(client.pay, ticket)
            database.wait_until_blocked()
            rival.execute("update ticket_allocations set expires_at = clock_timestamp()")
        response = paying.result()
        assert (code(response) if told[1] else (response.status_code, "")) == told


def test_a_payment_that_locks_first_keeps_its_ticket_from_expiring(
    database: Database,
) -> None:
    event = make_event(database)
    (outcome,) = carry_out(database, [reserve(Uuid(event))])
    ticket = outcome.tickets[0].id
    with Session(database, event) as payer, Session(database, event) as next_one:
        payer.lock()
        assert payer.pay(ticket, "alice") == "granted"
        locked = next_one.waits(next_one.lock)
        payer.commit()
        locked.result()
        assert (next_one.expire(), next_one.reserve("bob")) == (0, "tickets_sold_out")
        next_one.commit()
    assert taken(database) == 1


@pytest.mark.parametrize("guard", [*GUARDS, "all of them", "none of them"])
def test_a_hold_that_expires_first_cannot_be_paid(
    unbalanced_database: Database, tmp_path: Path, guard: str
) -> None:
    """Any one of the three guards is enough; without them one ticket is sold twice."""
    database = unbalanced_database
    event = make_event(database)
    (outcome,) = carry_out(database, [reserve(Uuid(event))])
    ticket = outcome.tickets[0].id
    out = [one for name, one in GUARDS.items() if guard not in (name, "all of them")]
    folder = without(tmp_path, *out)
    with Session(database, event, folder) as payer, Session(database, event, folder) as next_one:
        # Both have begun while the hold was good; now it ends.
        database.psql("update ticket_allocations set expires_at = clock_timestamp()")
        next_one.commit()
        next_one.send("select")
        next_one.lock()
        assert (next_one.expire(), next_one.reserve("bob")) == (1, "granted")

        def lock_and_pay() -> str:
            payer.lock()
            return payer.pay(ticket, "alice")

        paying = payer.begins(lock_and_pay)
        next_one.commit()
        # By the row alone, what was decided before the wait turns out to be no longer so.
        by_guard = {"the row read again": "busy", "none of them": "granted"}
        assert paying.result() == by_guard.get(guard, "hold_expired")
        payer.commit()
    sold_twice = guard == "none of them"
    assert taken(database) == (2 if sold_twice else 1)
    # The CHECK sees nothing of it: of one allocated ticket one is purchased. The audit does.
    assert database.psql("select allocated_tickets from events") == ["1"]
    if not sold_twice:
        database.check_books()


def test_a_running_sum_would_count_refused_requests(
    database: Database,
) -> None:
    event = Uuid(make_event(database, tickets=3))
    database.psql(
        "create or replace function available_after_request("
        "remaining integer, available integer, quantity integer) returns integer "
        "language sql immutable parallel safe as "
        "$$ select coalesce(remaining, available) - quantity $$"
    )
    outcomes = carry_out(database, [reserve(event, n) for n in (5, 1, 2)])
    assert outcome_codes(outcomes) == ["not_enough_tickets", "tickets_sold_out", "tickets_sold_out"]


def test_skip_locked_refuses_a_ticket_that_a_rollback_gives_back(
    database: Database,
) -> None:
    event = make_event(database)
    with Session(database, event) as a, Session(database, event) as b:
        a.send(CREATE_ROWS)
        a.connection.execute(FILL, [event, 1])
        a.commit()
        assert a.connection.execute(TAKE, [event, 1, "alice", 1]).rowcount == 1
        assert b.connection.execute(TAKE, [event, 1, "bob", 1]).rowcount == 0  # "sold out"
        a.connection.rollback()
        assert b.connection.execute(TAKE, [event, 2, "bob", 2]).rowcount == 0
        assert b.connection.execute(TAKE, [event, 1, "bob", 1]).rowcount == 1


def test_the_buyer_behind_a_rollback_gets_the_ticket(database: Database) -> None:
    event = make_event(database)
    with Session(database, event) as a, Session(database, event) as b:
        a.lock()
        a.reserve("alice")
        locked = b.waits(b.lock)
        a.connection.rollback()
        locked.result()
        assert b.reserve("bob") == "granted"
        b.commit()
    assert taken(database) == 1
