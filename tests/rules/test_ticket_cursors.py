"""Walks through lists of tickets, page by page, while the tickets change."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from httpx2 import Response
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.configuration import set_hypothesis_home_dir

from tests.support.citus import CITUS
from tests.support.client import Client, code
from tests.support.database import Database

pytestmark = pytest.mark.core

EXAMPLE_NUMBERS = itertools.count(1)

# A change, and a number that chooses what it is about.
Change = tuple[str, int]
KINDS = ["reserve", "pay", "cancel", "refund", "lapse", "transfer"]
changes = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 59)), max_size=4)
statuses = st.sampled_from(["", "reserved", "purchased", "expired", "user_cancelled", "refunded"])

TICKETS = """
select
    id::text,
    event_id::text,
    user_fingerprint,
    (case when status = 'reserved' and expires_at < now() then 'expired' else status end)::text
from ticket_allocations
where event_id = any(%s::uuid[])
"""
LAPSE = "update ticket_allocations set expires_at = '2001-01-01' where id = %s and status = %s"
TRANSFER = "update ticket_allocations set user_fingerprint = %s where id = %s"


class Sale:
    """Two events and two buyers of their own, so that examples can share a database."""

    def __init__(self, client: Client, connection: psycopg.Connection) -> None:
        self.client = client
        self.connection = connection
        number = next(EXAMPLE_NUMBERS)
        self.buyers = [f"{name}-{number}" for name in ("alice", "bob")]
        self.events = [client.create_event(1000, f"Event {number}.{n}") for n in range(2)]
        self.reserve(2)
        self.reserve(3)

    def reserve(self, choice: int) -> None:
        """Reserve one to three tickets, most of them for the first buyer and of the first event."""
        buyer, event = self.buyers[choice % 5 == 0], self.events[choice % 7 == 0]
        self.client.hold(event, 1 + choice % 3, buyer)

    def read_tickets(self) -> list[tuple[str, ...]]:
        """Return the id, event, buyer and shown status of all tickets."""
        return self.connection.execute(TICKETS, [self.events]).fetchall()

    def change(self, kind: str, choice: int) -> None:
        """Reserve tickets, or try to change one; it may be in another state already."""
        if kind == "reserve":
            self.reserve(choice)
            return
        tickets = sorted(self.read_tickets())
        id_, _, buyer, _ = tickets[choice % len(tickets)]
        if kind == "pay":
            self.client.pay(id_, buyer)
        elif kind == "cancel":
            self.client.cancel(id_, buyer)
        elif kind == "refund":
            self.client.pay(id_, buyer)
            self.client.refund(id_)
        elif kind == "lapse":
            self.connection.execute(LAPSE, [id_, "reserved"])
        else:
            other = self.buyers[buyer == self.buyers[0]]
            self.connection.execute(TRANSFER, [other, id_])


class Walk:
    """A walk through a list by its cursors, and what it must show.

    Args:
        list_page: requests a page.
        list_ids: returns the tickets of the list, and those of them with the walk's status.
    """

    def __init__(
        self, list_page: Callable[..., Response], list_ids: Callable[[], tuple[set[str], set[str]]]
    ) -> None:
        self.list_page = list_page
        self.list_ids = list_ids
        self.restart()

    def restart(self) -> None:
        """Begin with the first page."""
        self.after: str | None = None
        self.is_over = False
        self.shown: set[str] = set()
        _, self.matched_throughout = self.list_ids()

    def observe(self) -> None:
        """Keep of the tickets that have matched throughout those that match after a change."""
        if not self.is_over:
            self.matched_throughout &= self.list_ids()[1]

    def take_page(self) -> None:
        """Request the next page, and compare it with the list at this moment."""
        if self.is_over:
            return
        in_list, matching = self.list_ids()
        response = self.list_page(**({"after": self.after} if self.after else {}))
        if self.after and self.after not in in_list:
            assert code(response) == (400, "BAD_REQUEST")
            self.restart()
            return
        page = response.json()
        ids = [ticket["id"] for ticket in page["data"]]
        assert set(ids) <= matching
        assert not set(ids) & self.shown, "a ticket is shown twice"
        self.shown |= set(ids)
        self.after = page["meta"]["next"]
        self.is_over = self.after is None


def walk_while_tickets_change(
    client: Client,
    connection: psycopg.Connection,
    between_pages: Sequence[Sequence[Change]],
    before: Sequence[Change],
    query: dict[str, Any],
) -> None:
    """Walk through a buyer's list and an event's list, with changes between their pages."""
    sale = Sale(client, connection)
    event, buyer = sale.events[0], sale.buyers[0]

    def list_ids(column: int, value: str) -> tuple[set[str], set[str]]:
        tickets = [ticket for ticket in sale.read_tickets() if ticket[column] == value]
        matching = {ticket[0] for ticket in tickets if query.get("status") in (None, ticket[3])}
        return {ticket[0] for ticket in tickets}, matching

    for change in before:
        sale.change(*change)
    walks = [
        Walk(partial(client.list_event_tickets, event, **query), partial(list_ids, 1, event)),
        Walk(partial(client.list_user_tickets, buyer, **query), partial(list_ids, 2, buyer)),
    ]
    rounds = itertools.chain(between_pages, itertools.repeat(()))
    while not all(walk.is_over for walk in walks):
        for walk in walks:
            walk.take_page()
        for change in next(rounds):
            sale.change(*change)
            for walk in walks:
                walk.observe()
    for walk in walks:
        assert walk.matched_throughout <= walk.shown, "a ticket is passed over"


def test_a_walk_shows_each_ticket_once_whatever_changes(
    client: Client, database: Database, tmp_path: Path
) -> None:
    set_hypothesis_home_dir(tmp_path)  # else it creates a folder in the repository
    with database.connect() as connection:
        connection.autocommit = True

        @settings(
            max_examples=10 if CITUS else 40,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Phase.generate, Phase.shrink],
        )
        @given(
            between_pages=st.lists(changes, min_size=1, max_size=12),
            before=changes,
            status=statuses,
            limit=st.integers(1, 4),
        )
        def walk(
            between_pages: list[list[Change]], before: list[Change], status: str, limit: int
        ) -> None:
            query = {"limit": limit, **({"status": status} if status else {})}
            walk_while_tickets_change(client, connection, between_pages, before, query)

        walk()
