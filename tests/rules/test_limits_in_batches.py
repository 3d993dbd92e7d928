"""Within a batch, requests are decided as if they came one by one: against a model in Python."""

import itertools
from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from service.rows import Uuid
from service.write_path.changes import KINDS_IN_ORDER, Change, Reacquire, Reserve, Transfer
from tests.support.batches import carry_out, outcome_codes
from tests.support.client import Client
from tests.support.database import Database

pytestmark = pytest.mark.core

# The events of each example: how many tickets, and how many one person may have.
EVENTS: list[tuple[int, int | None]] = [(6, 2), (9, 3), (5, None), (3, 9)]
Request = tuple[int, int, str]  # the number of the event, quantity, user

requests = st.lists(
    st.tuples(
        st.integers(0, len(EVENTS) - 1),
        st.integers(1, 4),
        st.sampled_from(["alice", "bob", "carol"]),
    ),
    max_size=14,
)


def insert_events(database: Database) -> list[Uuid]:
    """Insert the events and return their ids."""
    values = ", ".join(
        f"(gen_random_uuid()::text, '2030-01-01', {tickets}, {limit or 'null'})"
        for tickets, limit in EVENTS
    )
    return [
        Uuid(id_)
        for id_ in database.psql(
            "insert into events (name, date, total_tickets, max_tickets_per_person) "
            f"values {values} returning id"
        )
    ]


class Model:
    """The events' available tickets and what each person has, changed by one request at a time."""

    def __init__(self) -> None:
        self.available = [tickets for tickets, _ in EVENTS]
        self.owned: Counter[tuple[int, str]] = Counter()

    def reserve(self, request: Request) -> str:
        """Return the outcome of a request."""
        event, quantity, user = request
        limit = EVENTS[event][1]
        if limit is not None and self.owned[event, user] + quantity > limit:
            return "limit_reached"
        if quantity > self.available[event]:
            return "not_enough_tickets" if self.available[event] else "tickets_sold_out"
        self.available[event] -= quantity
        self.owned[event, user] += quantity
        return "granted"


def changes(events: Sequence[Uuid], batch: Sequence[Request]) -> list[Reserve]:
    """Return the changes of a batch."""
    return [Reserve(events[event], quantity, user, "") for event, quantity, user in batch]


EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@EXAMPLES
@given(first=requests, second=requests)
def test_a_batch_decides_as_if_its_requests_came_one_by_one(
    database: Database, first: list[Request], second: list[Request]
) -> None:
    model, events = Model(), insert_events(database)
    for batch in (first, second):
        if batch:
            outcomes = carry_out(database, changes(events, batch))
            assert outcome_codes(outcomes) == [model.reserve(request) for request in batch]


def test_who_gives_a_ticket_away_may_get_another_in_the_same_batch(
    client: Client, database: Database
) -> None:
    event = client.create_event(maxTicketsPerPerson=1)
    tickets = {user: client.hold(event, user=user)[0] for user in ("alice", "bob", "carol")}

    def transfer(giver: str, taker: str) -> Transfer:
        return Transfer(
            ticket_id=Uuid(tickets[giver]), user_fingerprint=giver, new_user_fingerprint=taker
        )

    batch = [transfer("bob", "alice"), transfer("alice", "dave"), transfer("carol", "alice")]
    outcomes = carry_out(database, batch)
    # Alice has hers until she gives it to Dave, and then gets Carol's.
    assert outcome_codes(outcomes) == ["limit_reached", "granted", "granted"]
    assert str(outcomes[0].detail) == "[1, 1, 0]"


# The tickets that each event has at first.
TICKETS = [
    ("alice", "purchased"),
    ("alice", "reserved"),
    ("bob", "reserved"),
    ("carol", "expired"),
    ("alice", "expired"),
    ("bob", "user_cancelled"),
]
Deed = tuple[type[Change], int, int, str, str]  # the event, the ticket, who acts, the new owner

PEOPLE = st.sampled_from(["alice", "bob", "carol"])
OWNER = st.just("")  # stands for the first owner of the ticket
# Those that can be reacquired or transferred more often than those that cannot.
TICKET_NUMBERS = [0, 1, 2, 2, 3, 3, 4, 4, 5]
deeds = st.lists(
    st.tuples(
        st.sampled_from([Reacquire, Transfer, Reserve]),
        st.sampled_from([0, 0, 1, 1, 2, 3]),
        st.sampled_from(TICKET_NUMBERS),
        st.one_of(OWNER, OWNER, OWNER, PEOPLE),
        PEOPLE,
    ),
    # Two changes of one ticket never share a batch.
    unique_by=lambda deed: deed[:3] if deed[0] is Reserve else deed[1:3],
    min_size=8,
    max_size=16,
)


def insert_tickets(database: Database, events: Sequence[Uuid]) -> list[list[Uuid]]:
    """Insert the tickets of each event and return their ids."""
    allocated = sum(status in ("reserved", "purchased") for _, status in TICKETS)
    purchased = sum(status == "purchased" for _, status in TICKETS)
    database.psql(
        f"update events set allocated_tickets = {allocated}, purchased_tickets = {purchased}, "
        f"version = 2 where id = any('{{{','.join(events)}}}');"
        # Citus wants what an insert reads as a table of its own.
        "with sold as materialized (select id, total_tickets from events "
        f"where id = any('{{{','.join(events)}}}')) "
        "insert into event_ledger (event_id, version, total_tickets, allocated_tickets, "
        "purchased_tickets, reserved, purchased, last_event) select id, 2, total_tickets, "
        f"{allocated}, {purchased}, {allocated}, {purchased}, 'reserved' from sold"
    )
    values = ", ".join(
        f"('{event}', '{user}', '{status}', "
        f"{'null' if status == 'purchased' else repr('2040-01-01')})"
        for event in events
        for user, status in TICKETS
    )
    ids = database.psql(
        "insert into ticket_allocations (event_id, user_fingerprint, status, expires_at) "
        f"values {values} returning id"
    )
    size = len(TICKETS)
    return [[Uuid(id_) for id_ in ids[n * size : (n + 1) * size]] for n in range(len(events))]


class TicketModel(Model):
    """The model with each ticket, changed by one request at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets = [[list(ticket) for ticket in TICKETS] for _ in EVENTS]
        for event in range(len(EVENTS)):
            for user, status in TICKETS:
                if status in ("reserved", "purchased"):
                    self.available[event] -= 1
                    self.owned[event, user] += 1

    def decide(self, deed: Deed) -> str:
        """Return the outcome of a change."""
        kind, event, number, user, _ = deed
        if kind is Reserve:
            return self.reserve((event, 1, user))
        ticket = self.tickets[event][number]
        if ticket[0] != user:
            return "wrong_fingerprint"
        return self.reacquire(event, ticket) if kind is Reacquire else self.pass_on(deed, ticket)

    def reacquire(self, event: int, ticket: list[str]) -> str:
        """Return the outcome of a late payment."""
        user, status = ticket
        if status in ("purchased", "user_cancelled"):
            return "already_purchased" if status == "purchased" else "already_cancelled"
        if status == "expired" and (refusal := self.reserve((event, 1, user))) != "granted":
            return refusal if refusal == "limit_reached" else "hold_expired"
        ticket[1] = "purchased"
        return "granted"

    def pass_on(self, deed: Deed, ticket: list[str]) -> str:
        """Return the outcome of a transfer."""
        _, event, _, user, new_user = deed
        if ticket[1] in ("expired", "user_cancelled"):
            return "hold_expired" if ticket[1] == "expired" else "already_cancelled"
        limit = EVENTS[event][1]
        if limit is not None and self.owned[event, new_user] >= limit:
            return "limit_reached"
        ticket[0] = new_user
        self.owned[event, user] -= 1
        self.owned[event, new_user] += 1
        return "granted"


def change_of(events: Sequence[Uuid], tickets: Sequence[Sequence[Uuid]], deed: Deed) -> Change:
    """Return the change of a deed."""
    kind, event, number, user, new_user = deed
    if kind is Reserve:
        return Reserve(events[event], 1, user, "")
    ticket = tickets[event][number]
    if kind is Reacquire:
        return Reacquire(ticket_id=ticket, user_fingerprint=user)
    return Transfer(ticket_id=ticket, user_fingerprint=user, new_user_fingerprint=new_user)


@settings(EXAMPLES, max_examples=60)
@given(batch=deeds)
def test_late_payments_and_transfers_are_decided_as_if_they_came_one_by_one(
    database: Database, batch: list[Deed]
) -> None:
    batch = [(*deed[:3], deed[3] or TICKETS[deed[2]][0], deed[4]) for deed in batch]
    batch = [deed for deed in batch if deed[0] is not Transfer or deed[3] != deed[4]]
    # A transaction carries out its changes kind by kind.
    batch.sort(key=lambda deed: KINDS_IN_ORDER.index(deed[0]))
    model, events = TicketModel(), insert_events(database)
    tickets = insert_tickets(database, events)
    if batch:
        outcomes = carry_out(database, [change_of(events, tickets, deed) for deed in batch])
        assert outcome_codes(outcomes) == [model.decide(deed) for deed in batch]
    ids = f"'{{{','.join(itertools.chain(*tickets))}}}'::uuid[]"
    assert database.psql(
        "select user_fingerprint || ' ' || status from ticket_allocations "
        f"where id = any({ids}) order by array_position({ids}, id)"
    ) == [" ".join(ticket) for ticket in itertools.chain(*model.tickets)]
