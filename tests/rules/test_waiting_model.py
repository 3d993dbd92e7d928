"""The waiting list against a model of its rules in Python, by random schedules."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, LiteralString

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from service.database.connections import ADAPTERS
from service.rows import Uuid
from service.write_path.changes import (
    Cancel,
    Change,
    Expire,
    Join,
    Leave,
    Offer,
    Pay,
    Reacquire,
    Refund,
    Reserve,
    Update,
)
from service.write_path.outcomes import Outcome
from service.write_path.transaction import Transactions
from tests.support.batches import STATEMENTS
from tests.support.database import Database

PEOPLE = [f"person-{number}" for number in range(20)]
NO_ID = Uuid("")


# The model


@dataclass(eq=False)
class Entry:
    """Somebody in the line."""

    user: str
    quantity: int
    state: str = "waiting"  # or offered (whatever became of it), left, lapsed
    passed: int = 0  # the tickets that were offered behind it
    was_unservable: bool = False
    id: Uuid = NO_ID


@dataclass(eq=False)
class Group:
    """The tickets of a reservation, which all have one status."""

    user: str
    quantity: int
    status: str = "reserved"
    entry: Entry | None = None
    id: Uuid = NO_ID


@dataclass
class Model:
    """An event with its line, changed by one step at a time."""

    total: int
    limit: int | None = None
    is_open: bool = True
    line: list[Entry] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def available(self) -> int:
        """How many tickets are available."""
        return self.total - sum(
            group.quantity for group in self.groups if group.status in ("reserved", "purchased")
        )

    @property
    def waiting(self) -> list[Entry]:
        """Those who wait, in the order of the line."""
        return [entry for entry in self.line if entry.state == "waiting"]

    def has(self, user: str) -> int:
        """How many tickets a person holds or has purchased."""
        return sum(
            group.quantity
            for group in self.groups
            if group.user == user and group.status in ("reserved", "purchased")
        )

    def exceeds(self, user: str, quantity: int) -> bool:
        """Whether a person may not have so many tickets more."""
        return self.limit is not None and self.has(user) + quantity > self.limit

    def is_servable(self, entry: Entry) -> bool:
        """Whether an entry could be served if enough tickets were available."""
        return entry.quantity <= self.total and not self.exceeds(entry.user, entry.quantity)

    def may_be_offered(self, entry: Entry) -> bool:
        """Whether the rules give an entry its tickets now.

        They are available, and nobody before it has been passed by as many as they want.
        """
        before = self.waiting[: self.waiting.index(entry)]
        return entry.quantity <= self.available and not any(
            other.passed >= other.quantity for other in before if self.is_servable(other)
        )

    def offer(self) -> None:
        """Offer what is available, one entry after the other from the beginning of the line."""
        while self.is_open:
            chosen = next(
                (
                    entry
                    for entry in self.waiting
                    if self.is_servable(entry) and self.may_be_offered(entry)
                ),
                None,
            )
            if chosen is None:
                break
            for entry in self.waiting[: self.waiting.index(chosen)]:
                entry.passed += chosen.quantity
                entry.was_unservable |= not self.is_servable(entry)
            chosen.state = "offered"
            self.groups.append(Group(chosen.user, chosen.quantity, entry=chosen))

    def join(self, user: str, quantity: int) -> str:
        """Return the outcome of joining."""
        for entry in self.line:
            offers = [group for group in self.groups if group.entry is entry]
            if entry.user == user and (
                entry.state == "waiting"
                or (entry.state == "offered" and offers[0].status == "reserved")
            ):
                return "replayed" if entry.quantity == quantity else "already_waiting"
        if not self.is_open:
            return "sale_closed"
        if self.exceeds(user, quantity):
            return "limit_reached"
        if quantity > self.total:
            return "not_enough_tickets"
        self.line.append(Entry(user, quantity))
        return "granted"

    def leave(self, entry: Entry) -> str:
        """Return the outcome of leaving."""
        offer = next((group for group in self.groups if group.entry is entry), None)
        if entry.state == "left":
            return "already_left"
        if entry.state == "lapsed":
            return "hold_expired"
        if offer is not None:
            if offer.status in ("purchased", "refunded"):
                return "already_purchased"
            if offer.status != "reserved":
                return "hold_expired"
            offer.status = "user_cancelled"
        entry.state = "left"
        return "granted"

    def reserve(self, user: str, quantity: int) -> str:
        """Return the outcome of a reservation from outside the line."""
        if not self.is_open:
            return "sale_closed"
        if self.exceeds(user, quantity):
            return "limit_reached"
        if self.waiting:
            return "waiting_list_first"
        if quantity > self.available:
            return "not_enough_tickets" if self.available > 0 else "tickets_sold_out"
        self.groups.append(Group(user, quantity))
        return "granted"

    def reacquire(self, group: Group) -> str:
        """Return the outcome of a late payment."""
        if group.status == "expired":
            if self.exceeds(group.user, group.quantity):
                return "limit_reached"
            if self.waiting or group.quantity > self.available:
                return "hold_expired"
        elif group.status != "reserved":
            return f"already_{group.status.removeprefix('user_')}"
        group.status = "purchased"
        return "granted"


# The service

INSERT_EVENT: LiteralString = """
    insert into events (name, date, total_tickets)
    values (gen_random_uuid()::text, '2030-01-01', %s) returning id::text
"""
EXPIRE: LiteralString = """
    update ticket_allocations set expires_at = now() - interval '1 s'
    where reservation_id = %s returning id
"""
LINE: LiteralString = """
    select id::text, reservation_id::text, left_at is not null, unservable_at is not null
    from waiting_entries where event_id = %s order by position
"""
COUNTS: LiteralString = """
    select total_tickets - allocated_tickets, waiting_tickets from events where id = %s
"""


class Office:
    """Carries out batches of one event as the service does, with the offers that follow."""

    def __init__(self, connection: psycopg.AsyncConnection, runner: asyncio.Runner) -> None:
        self._connection = connection
        self._runner = runner
        self._transactions = Transactions(STATEMENTS, 900, 1800, 100_000)

    def carry_out(self, *changes: Change) -> list[Outcome]:
        """Carry out a batch, and offers until there is nothing to offer."""
        outcomes, offerable = self._run(changes)
        turns = 0
        while offerable:
            _, offerable = self._run([Offer(event_id) for event_id in offerable])
            turns += 1
            assert turns < 20, "the offers do not end"
        return outcomes

    def _run(self, changes: Sequence[Change]) -> tuple[list[Outcome], set[Uuid]]:
        return self._runner.run(self._transactions.run(self._connection, changes, 1.0))


@pytest.fixture
def office(database: Database) -> Iterator[Office]:
    """An office on the test's database."""
    with asyncio.Runner() as runner:
        connection = runner.run(
            psycopg.AsyncConnection.connect(database.dsn, autocommit=True, context=ADAPTERS)
        )
        yield Office(connection, runner)
        runner.run(connection.close())


class Sale:
    """An event in the service and in the model."""

    def __init__(self, office: Office, connection: psycopg.Connection, total: int) -> None:
        self.office, self.connection = office, connection
        self.model = Model(total)
        self.event = Uuid(self.query(INSERT_EVENT, total)[0][0])

    def query(self, sql: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(sql, parameters).fetchall()

    def join(self, user: str, quantity: int) -> None:
        """Somebody joins the line."""
        expected = self.model.join(user, quantity)
        (outcome,) = self.office.carry_out(Join(self.event, quantity, user))
        assert outcome.code == expected
        if expected == "granted":
            self.model.line[-1].id = Uuid(str(outcome.detail))

    def leave(self, number: int) -> None:
        """Somebody leaves the line."""
        if self.model.line:
            entry = self.model.line[number % len(self.model.line)]
            (outcome,) = self.office.carry_out(Leave(self.event, entry.id, entry.user))
            assert outcome.code == self.model.leave(entry)

    def reserve(self, user: str, quantity: int) -> None:
        """Somebody reserves without waiting in line."""
        (outcome,) = self.office.carry_out(Reserve(self.event, quantity, user, ""))
        assert outcome.code == self.model.reserve(user, quantity)
        if outcome.tickets:
            self.model.groups[-1].id = outcome.tickets[0].reservation_id

    def move(self, kind: str, number: int) -> None:
        """A reservation is paid, cancelled, refunded, expires or is paid late."""
        groups = [group for group in self.model.groups if group.status == "reserved"]
        if kind in ("refund", "late"):
            wanted = "purchased" if kind == "refund" else "expired"
            groups = [group for group in self.model.groups if group.status == wanted]
        if not groups:
            return
        group = groups[number % len(groups)]
        owner: dict[str, Any] = {
            "reservation_id": group.id,
            "user_fingerprint": group.user,
            "max_tickets": 9,
        }
        if kind == "pay":
            group.status = "purchased"
            change: Change = Pay(**owner)
        elif kind == "cancel":
            group.status = "user_cancelled"
            change = Cancel(**owner)
        elif kind == "refund":
            group.status = "refunded"
            change = Refund(reservation_id=group.id)
        elif kind == "late":
            (outcome,) = self.office.carry_out(Reacquire(**owner))
            assert outcome.code == self.model.reacquire(group)
            return
        else:
            group.status = "expired"
            self.query(EXPIRE, group.id)
            change = Expire(self.event)
        assert self.office.carry_out(change)[0].code == "granted"

    def update(self, **changes: Any) -> None:
        """The organizer changes the total, the limit, or closes and reopens the sale."""
        allocated = self.model.total - self.model.available
        (outcome,) = self.office.carry_out(Update(self.event, json.dumps(changes)))
        if changes.get("total_tickets", self.model.total) < allocated:
            assert outcome.code == "capacity_below_allocated"
            return
        assert outcome.code == "granted"
        self.model.total = changes.get("total_tickets", self.model.total)
        self.model.limit = changes.get("max_tickets_per_person", self.model.limit)
        if "sale_closes_at" in changes:
            self.model.is_open = changes["sale_closes_at"] is None

    def compare(self) -> None:
        """Compare the line and the tickets; adopt the ids of offers."""
        # Entries that cannot be served may be ended when that is found: adopt it.
        rows = self.query(LINE, self.event)
        assert len(rows) == len(self.model.line)
        for entry, row in zip(self.model.line, rows, strict=True):
            id_, reservation_id, has_left, is_unservable = row
            assert id_ == entry.id
            if is_unservable and entry.state == "waiting":
                assert not self.model.is_servable(entry)
                entry.state = "lapsed"
            offer = next((group for group in self.model.groups if group.entry is entry), None)
            assert (offer is not None) == (reservation_id is not None), (entry, row)
            if offer is not None:
                offer.id = Uuid(reservation_id)
            assert has_left == (entry.state == "left")
            assert is_unservable == (entry.state == "lapsed")
            if not entry.was_unservable:
                assert entry.passed <= max(0, 2 * entry.quantity - 2), "the bound is broken"
        waiting = sum(entry.quantity for entry in self.model.waiting)
        assert self.query(COUNTS, self.event) == [(self.model.available, waiting)]


def take_step(sale: Sale, random: Random) -> None:
    """Take a step that has an effect more often than not."""
    user, number = random.choice(PEOPLE), random.randrange(10)
    few_wait = len(sale.model.waiting) < random.randrange(2, 7)
    kind = random.choices(
        ["join", "free", "pay", "late", "leave", "reserve", "resize", "limit", "close"],
        [8 if few_wait else 1, 8, 2, 1, 1, 2, 1, 0.5, 0.5],
    )[0]
    if kind == "join":
        sale.join(user, random.choice([1, 1, 1, 2, 2, 3, 4]))
    elif kind == "free":
        sale.move(random.choice(["cancel", "cancel", "expire", "refund"]), number)
    elif kind in ("pay", "late"):
        sale.move(kind, number)
    elif kind == "leave":
        sale.leave(number)
    elif kind == "reserve":
        sale.reserve(user, random.randrange(1, 3))
    elif kind == "resize":
        sale.update(total_tickets=max(1, sale.model.total + random.randrange(-2, 3)))
    elif kind == "limit":
        sale.update(max_tickets_per_person=random.choice([None, 2, 3, 4]))
    else:
        sale.update(sale_closes_at="now" if random.random() < 0.3 else None)


def run(office: Office, database: Database, seed: int, steps: int) -> None:
    """Let a sold-out sale go through a random schedule."""
    random = Random(seed)
    total = random.randrange(2, 8)
    with database.connect() as connection:
        connection.autocommit = True
        sale = Sale(office, connection, total)
        for number in range(total):
            sale.reserve(f"first-{number}", 1)
        for _ in range(steps):
            take_step(sale, random)
            sale.model.offer()
            sale.compare()


@pytest.mark.core
@pytest.mark.parametrize("seed", range(10))
def test_the_line_moves_as_the_rules_say(office: Office, database: Database, seed: int) -> None:
    run(office, database, seed, steps=40)


@pytest.mark.slow
@settings(
    max_examples=300,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0))
def test_the_line_moves_as_the_rules_say_in_random_schedules(
    office: Office, database: Database, seed: int
) -> None:
    run(office, database, seed, steps=60)
