"""Within a batch, requests are decided as if they came one by one: against a model in Python."""

from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from service.rows import Uuid
from service.write_path.changes import Reserve
from tests.support.batches import carry_out, outcome_codes
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


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=requests, second=requests)
def test_a_batch_decides_as_if_its_requests_came_one_by_one(
    database: Database, first: list[Request], second: list[Request]
) -> None:
    model, events = Model(), insert_events(database)
    for batch in (first, second):
        if batch:
            outcomes = carry_out(database, changes(events, batch))
            assert outcome_codes(outcomes) == [model.reserve(request) for request in batch]
