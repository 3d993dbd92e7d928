"""Interleavings of two transactions of one event, statement by statement, with and without guards.

They are drawn in docs/explanation/never-oversell.md. Each session sends the statements of ``sql/``
in the order of a batch. PostgreSQL tells when a session waits for a lock.
"""

import re
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
from service.write_path.changes import Cancel, Change, Extend, Pay, Refund
from tests.benchmarks.ticket_rows import CREATE_ROWS, INSERT_ROWS, RESERVE
from tests.support.batches import carry_out, outcome_codes, reserve
from tests.support.client import code
from tests.support.database import Database
from tests.support.paths import DOCS, ROOT
from tests.support.services import Starter
from tests.support.sql_copies import copy_sql
from tests.support.waiting import wait_until

# Edits of sql/ that remove a guard.
LOCK = (("lock_events.sql", "for update of events", ""),)
CLOCK = (
    ("expire_tickets.sql", "and tickets.held_until <= statement", "and held_until <= transaction"),
    ("expire_tickets.sql", "(tickets.held_until <= statement", "(held_until <= transaction"),
    ("pay_tickets.sql", "statement_timestamp()", "now()"),
)
ROW = (("pay_tickets.sql", "and (tickets.status = 'reserved') is true", ""),)
GUARDS = {"the lock": LOCK, "the clock": CLOCK, "the row read again": ROW}


class Session:
    """A transaction that sends statements one by one, and may wait for a lock."""

    def __init__(self, database: Database, event: str, folder: Path | None = None) -> None:
        self._database, self._event = database, event
        self._statements = load_statements(folder or resource("sql"))
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self.connection = psycopg.connect(
            self._database.dsn, context=ADAPTERS, application_name="stranger"
        )
        self.execute("select")  # begins the transaction, whose start is now()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self.connection.close()

    def execute(self, sql: str, **values: Any) -> list[Any]:
        """Run SQL that is not one of the service's statements."""
        return self._fetch(sql.encode(), values)

    def lock(self) -> list[Any]:
        """Lock the event."""
        return self._run("lock_events", **self._event_parameters())

    def expire(self) -> int:
        """Expire the due holds and return how many there were."""
        rows = self._run("expire_tickets", quantities=[1], most=1000, **self._event_parameters())
        return sum(expired for _, expired in rows)

    def reserve(self, user: str) -> str:
        """Reserve one ticket and return the outcome."""
        ((_, outcome, *_),) = self._run(
            "reserve_tickets",
            event_ids=[self._event],
            quantities=[1],
            user_fingerprints=[user],
            idempotency_keys=[""],
            hold="900 s",
        )
        return str(outcome)

    def pay(self, ticket: str, user: str) -> str:
        """Pay for a ticket and return the outcome."""
        values = {"ticket_ids": [ticket], "reservation_ids": [None], "user_fingerprints": [user]}
        ((_, outcome, *_),) = self._run("pay_tickets", **values)
        return str(outcome)

    def start_blocked(self, step: Any, *arguments: Any) -> "Future[Any]":
        """Start a step that must wait for a lock; return its future once it waits."""
        future = self._pool.submit(step, *arguments)
        self._database.wait_until_blocked(application="stranger")
        return future

    def start(self, step: Any) -> "Future[Any]":
        """Start a step; return its future once it waits for a lock or is done."""
        future = self._pool.submit(step)
        waiting = (
            "select count(*) from pg_stat_activity "
            "where wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_until(lambda: future.done() or self._database.psql(waiting) == ["1"])
        return future

    def commit(self) -> None:
        """Commit; the next statement begins another transaction."""
        self.connection.commit()

    def _event_parameters(self) -> dict[str, Any]:
        return {"event_ids": [self._event], "ticket_ids": [], "reservation_ids": []}

    def _run(self, name: str, **values: Any) -> list[Any]:
        return self._fetch(self._statements[name].query, values)

    def _fetch(self, query: bytes, values: dict[str, Any]) -> list[Any]:
        cursor = self.connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def count_allocated(database: Database) -> int:
    """Return how many tickets are held or purchased."""
    (count,) = database.psql(
        "select count(*) from ticket_allocations where status in ('reserved', 'purchased')"
    )
    return int(count)


def test_every_test_that_the_documents_name_exists() -> None:
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    tests = "".join(module.read_text() for module in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", pages))
    assert names
    assert names - set(re.findall(r"def (test_\w+)\(", tests)) == set()


def test_the_second_buyer_waits_for_the_lock_and_is_refused(database: Database) -> None:
    event = database.insert_event(tickets=1)
    with Session(database, event) as alice, Session(database, event) as bob:
        alice.lock()
        lock = bob.start_blocked(bob.lock)
        assert alice.reserve("alice") == "granted"
        alice.commit()
        lock.result()
        assert bob.reserve("bob") == "tickets_sold_out"
        bob.commit()
    assert count_allocated(database) == 1


def test_both_buyers_get_the_last_ticket_without_the_lock(
    unbalanced_database: Database, tmp_path: Path
) -> None:
    database, folder = unbalanced_database, copy_sql(tmp_path, *LOCK)
    database.psql("alter table events drop constraint events_never_oversold")
    event = database.insert_event(tickets=1)
    with Session(database, event, folder) as alice, Session(database, event, folder) as bob:
        alice.lock()
        bob.lock()
        assert alice.reserve("alice") == "granted"
        # It has granted the ticket, and waits only to add it to the count that alice has updated.
        reservation = bob.start_blocked(bob.reserve, "bob")
        alice.commit()
        assert reservation.result() == "granted"
        bob.commit()
    assert database.psql("select allocated_tickets, total_tickets from events") == ["2|1"]
    assert count_allocated(database) == 2


def test_the_check_constraint_aborts_the_second_sale_without_the_lock(
    database: Database, tmp_path: Path
) -> None:
    folder, event = copy_sql(tmp_path, *LOCK), database.insert_event(tickets=1)
    with Session(database, event, folder) as alice, Session(database, event, folder) as bob:
        alice.lock()
        bob.lock()
        assert alice.reserve("alice") == "granted"
        reservation = bob.start_blocked(bob.reserve, "bob")
        alice.commit()
        with pytest.raises(psycopg.errors.CheckViolation, match="events_never_oversold"):
            reservation.result()
    assert count_allocated(database) == 1


def test_a_statement_that_locks_and_counts_has_an_old_snapshot(database: Database) -> None:
    event = database.insert_event(tickets=1)
    locks_and_counts = """
        select
            allocated_tickets,
            (select count(*) from ticket_allocations where event_id = events.id)
        from events where id = %(event)s::uuid for update
    """
    with Session(database, event) as alice, Session(database, event) as bob:
        alice.lock()
        counts = bob.start_blocked(lambda: bob.execute(locks_and_counts, event=event))
        assert alice.reserve("alice") == "granted"
        alice.commit()
        # After the wait the locked row is read again, but the count beside it is not.
        assert counts.result() == [(1, 0)]
        # The next statement has a new snapshot.
        assert bob.execute(locks_and_counts, event=event) == [(1, 1)]


def test_repeatable_read_aborts_the_second_transaction(database: Database) -> None:
    event = database.insert_event(tickets=1)
    with Session(database, event) as alice, Session(database, event) as bob:
        bob.commit()
        bob.execute("set transaction isolation level repeatable read")
        alice.lock()
        # The only snapshot of this transaction is taken here, before the wait.
        lock = bob.start_blocked(bob.lock)
        alice.reserve("alice")
        alice.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            lock.result()


@pytest.mark.parametrize(
    ("clock", "expected"), [("statement_timestamp()", (410, "HOLD_EXPIRED")), ("now()", (200, ""))]
)
def test_a_hold_that_ends_during_the_wait_is_sold_only_with_an_early_clock(
    database: Database, start: Starter, tmp_path: Path, clock: str, expected: tuple[int, str]
) -> None:
    folder = copy_sql(tmp_path, *CLOCK) if clock == "now()" else resource("sql")
    service = start(database, sweeps=False, sql_dir=folder)
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        event = client.create_event(tickets=1)
        (ticket,) = client.hold(event)
        with database.lock_event(event) as rival:
            payment = pool.submit(client.pay, ticket)
            database.wait_until_blocked()
            rival.execute("update ticket_allocations set expires_at = clock_timestamp()")
        response = payment.result()
        result = code(response) if response.is_error else (200, "")
        assert result == expected


def test_a_payment_that_locks_first_keeps_its_ticket_from_expiring(database: Database) -> None:
    event = database.insert_event(tickets=1)
    (outcome,) = carry_out(database, [reserve(Uuid(event))])
    ticket = outcome.tickets[0].id
    with Session(database, event) as payer, Session(database, event) as buyer:
        payer.lock()
        assert payer.pay(ticket, "alice") == "granted"
        lock = buyer.start_blocked(buyer.lock)
        payer.commit()
        lock.result()
        assert (buyer.expire(), buyer.reserve("bob")) == (0, "tickets_sold_out")
        buyer.commit()
    assert count_allocated(database) == 1


@pytest.mark.parametrize("guard", [*GUARDS, "all guards", "no guard"])
def test_a_hold_that_expires_first_cannot_be_paid(
    unbalanced_database: Database, tmp_path: Path, guard: str
) -> None:
    """Each of the three guards is enough; without all of them one ticket is sold twice."""
    database = unbalanced_database
    event = database.insert_event(tickets=1)
    (outcome,) = carry_out(database, [reserve(Uuid(event))])
    ticket = outcome.tickets[0].id
    removed = [edits for name, edits in GUARDS.items() if guard not in (name, "all guards")]
    folder = copy_sql(tmp_path, *chain.from_iterable(removed))
    with Session(database, event, folder) as payer, Session(database, event, folder) as buyer:
        # Both transactions have begun before the hold ends; now it ends.
        database.psql("update ticket_allocations set expires_at = clock_timestamp()")
        buyer.commit()
        buyer.execute("select")
        buyer.lock()
        assert (buyer.expire(), buyer.reserve("bob")) == (1, "granted")

        def lock_and_pay() -> str:
            payer.lock()
            return payer.pay(ticket, "alice")

        payment = payer.start(lock_and_pay)
        buyer.commit()
        # If the row that is read again is the only guard, the payment finds a changed ticket.
        outcomes = {"the row read again": "busy", "no guard": "granted"}
        assert payment.result() == outcomes.get(guard, "hold_expired")
        payer.commit()
    sold_twice = guard == "no guard"
    assert count_allocated(database) == (2 if sold_twice else 1)
    # The CHECK constraint cannot notice it: one allocated ticket, one purchased. The audit can.
    assert database.psql("select allocated_tickets from events") == ["1"]
    if not sold_twice:
        database.check_books()


@pytest.mark.parametrize(
    "kind", [Pay, Cancel, Extend, None], ids=["pay", "cancel", "extend", "refund"]
)
def test_a_ticket_that_is_changed_by_hand_meanwhile_is_busy(
    unbalanced_database: Database, kind: type[Pay | Cancel | Extend] | None
) -> None:
    """Without the lock of the event, as only psql can."""
    database = unbalanced_database
    event = database.insert_event(tickets=1)
    (held,) = carry_out(database, [reserve(Uuid(event))])
    reservation = held.tickets[0].reservation_id
    change: Change
    if kind is None:
        carry_out(database, [Pay(reservation_id=reservation, user_fingerprint="alice")])
        change = Refund(reservation_id=reservation)
    else:
        change = kind(reservation_id=reservation, user_fingerprint="alice")
        # So that an extension gains time.
        soon = "statement_timestamp() + interval '1 min'"
        database.psql(f"update ticket_allocations set expires_at = {soon}")
    with database.connect() as stranger, ThreadPoolExecutor(1) as pool:
        stranger.execute("update ticket_allocations set status = 'expired'")
        outcomes = pool.submit(carry_out, database, [change])
        database.wait_until_blocked(application="")
        stranger.commit()
        assert outcome_codes(outcomes.result()) == ["busy"]
    assert database.psql("select status from ticket_allocations") == ["expired"]


def test_a_running_sum_would_count_refused_requests(database: Database) -> None:
    event = Uuid(database.insert_event(tickets=3))
    database.psql(
        "create or replace function take_turn("
        "remaining integer[], opening integer[], wanted integer, place integer) returns integer[] "
        "language sql immutable parallel safe as "
        "$$ select array[(coalesce(remaining, opening))[1] - wanted] $$"
    )
    outcomes = carry_out(database, [reserve(event, n) for n in (5, 1, 2)])
    assert outcome_codes(outcomes) == ["not_enough_tickets", "tickets_sold_out", "tickets_sold_out"]


def test_skip_locked_refuses_a_ticket_that_a_rollback_gives_back(database: Database) -> None:
    event = database.insert_event(tickets=1)
    with Session(database, event) as alice, Session(database, event) as bob:
        alice.execute(CREATE_ROWS)
        alice.connection.execute(INSERT_ROWS, [event, 1])
        alice.commit()
        assert alice.connection.execute(RESERVE, [event, 1, "alice", 1]).rowcount == 1
        assert bob.connection.execute(RESERVE, [event, 1, "bob", 1]).rowcount == 0  # "sold out"
        alice.connection.rollback()
        assert bob.connection.execute(RESERVE, [event, 2, "bob", 2]).rowcount == 0
        assert bob.connection.execute(RESERVE, [event, 1, "bob", 1]).rowcount == 1


def test_the_buyer_behind_a_rollback_gets_the_ticket(database: Database) -> None:
    event = database.insert_event(tickets=1)
    with Session(database, event) as alice, Session(database, event) as bob:
        alice.lock()
        alice.reserve("alice")
        lock = bob.start_blocked(bob.lock)
        alice.connection.rollback()
        lock.result()
        assert bob.reserve("bob") == "granted"
        bob.commit()
    assert count_allocated(database) == 1
