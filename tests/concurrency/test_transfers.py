"""A transfer, and all that can happen to the same ticket at once: some order explains the results.

The ticket is the only one of its event. Alice gives it to Bob; meanwhile both pay for it and cancel
it, the organizer refunds it, its hold ends, and Carol reserves what comes back.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter, run_service
from tests.support.sql_copies import copy_sql
from tests.support.waiting import WAIT_SECONDS

SUCCESS, BUSY = "success", "BUSY"
# The end of a hold: it happens by the clock, and nobody gets a response.
LAPSE = "lapse"
# The first statuses of the ticket, and how many milliseconds later its hold ends.
STARTS = [("reserved", None), ("reserved", 10), ("reserved", 25), ("purchased", None)]

REFUSALS = {
    "purchased": "ALREADY_PURCHASED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
    "expired": "HOLD_EXPIRED",
}


class Ticket(NamedTuple):
    """The ticket, and whether another one of its event is available."""

    owner: str
    status: str
    available: bool = False


def decide(ticket: Ticket, request: str) -> tuple[Ticket, str]:
    """Return the ticket after a request, and the code of the response."""
    verb, _, person = request.partition(" ")
    if verb == LAPSE:
        is_held = ticket.status == "reserved"
        return (ticket._replace(status="expired", available=True) if is_held else ticket), SUCCESS
    if verb == "reserve":
        is_sold = not ticket.available
        return ticket._replace(available=False), "TICKETS_SOLD_OUT" if is_sold else SUCCESS
    if verb == "refund":
        if ticket.status == "purchased":
            return ticket._replace(status="refunded", available=True), SUCCESS
        return ticket, "ALREADY_REFUNDED" if ticket.status == "refunded" else "NOT_PURCHASED"
    if person != ticket.owner:
        return ticket, "WRONG_FINGERPRINT"
    if verb == "transfer":
        if ticket.status in ("reserved", "purchased"):
            return ticket._replace(owner="bob"), SUCCESS
        return ticket, REFUSALS[ticket.status]
    if verb == "pay-late" and ticket.status == "expired" and ticket.available:
        return ticket._replace(status="purchased", available=False), SUCCESS
    if ticket.status != "reserved":
        return ticket, REFUSALS[ticket.status]
    if verb == "cancel":
        return ticket._replace(status="user_cancelled", available=True), SUCCESS
    return ticket._replace(status="purchased"), SUCCESS


def ends(ticket: Ticket, codes: Mapping[str, str]) -> Iterator[Ticket]:
    """Yield how the ticket ends in each order of the requests that explains their codes."""
    if not codes:
        yield ticket
    for request, expected in codes.items():
        # BUSY has changed nothing.
        after, decided = (ticket, BUSY) if expected == BUSY else decide(ticket, request)
        if decided == expected:
            others = {other: code for other, code in codes.items() if other != request}
            yield from ends(after, others)


class Race:
    """Sends the requests of a round at once, each over a connection of its own."""

    def __init__(self, urls: list[str], database: Database, stack: ExitStack) -> None:
        self._clients = [
            stack.enter_context(Client(base_url=urls[n % len(urls)], timeout=WAIT_SECONDS))
            for n in range(9)
        ]
        self._pool = stack.enter_context(ThreadPoolExecutor(len(self._clients)))
        self._connection = stack.enter_context(database.connect())
        self._database = database

    def run(self, number: int, start: str, lapses_in: int | None) -> tuple[set[Ticket], Ticket]:
        """Run a round; return how the ticket may have ended by the responses, and how it did."""
        client, *_ = self._clients
        event = client.create_event(tickets=1, name=f"Night {number}")
        (ticket,) = client.hold(event)
        if start == "purchased":
            client.pay(ticket).raise_for_status()
        if lapses_in is not None:
            self._connection.execute(
                "update ticket_allocations "
                "set expires_at = clock_timestamp() + %s * interval '1 ms' where id = %s",
                [lapses_in, ticket],
            )
            self._connection.commit()
        codes = self._send(event, ticket, random.Random(number))
        if lapses_in is not None:
            codes[LAPSE] = SUCCESS
        return set(ends(Ticket("alice", start), codes)), self._read(event, ticket)

    def _send(self, event: str, ticket: str, rng: random.Random) -> dict[str, str]:
        _, a, b, c, d, e, f, g, h = self._clients
        requests: list[tuple[str, Callable[[], httpx2.Response]]] = [
            ("transfer alice", partial(a.transfer, ticket, "bob")),
            ("pay alice", partial(b.pay, ticket)),
            ("pay bob", partial(c.pay, ticket, "bob")),
            ("pay-late bob", partial(d.pay_late, ticket, "bob")),
            ("cancel alice", partial(e.cancel, ticket)),
            ("cancel bob", partial(f.cancel, ticket, "bob")),
            ("refund", partial(g.refund, ticket)),
            ("reserve", partial(h.reserve, event, 1, "carol")),
        ]
        # Some of them, in any order: all together would leave nobody the ticket to transfer.
        chosen = [requests[0], *rng.sample(requests[1:], 4)]
        rng.shuffle(chosen)
        pending: dict[str, Future[httpx2.Response]] = {
            name: self._pool.submit(request) for name, request in chosen
        }
        responses = {name: future.result() for name, future in pending.items()}
        return {
            name: SUCCESS if response.is_success else code(response)[1]
            for name, response in responses.items()
        }

    def _read(self, event: str, ticket: str) -> Ticket:
        self._connection.execute("select pg_sleep(0.03)")  # until a lapse is over
        self._connection.commit()
        found = self._clients[0].find_ticket(ticket, "alice").json()
        available = self._clients[0].find_event(event)["availableTickets"] == 1
        owner = "alice" if "userFingerprint" in found else "bob"
        return Ticket(owner, found["status"], available)


@pytest.mark.parametrize("rounds", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_some_order_explains_a_transfer_and_what_happens_meanwhile(
    database: Database, rounds: int
) -> None:
    with run_service(database, workers=2) as client, ExitStack() as stack:
        race = Race([str(client.base_url)], database, stack)
        for number in range(rounds):
            possible, actual = race.run(number, *STARTS[number % len(STARTS)])
            assert actual in possible


def test_no_order_explains_them_without_the_guards(
    unbalanced_database: Database, start: Starter, tmp_path: Path
) -> None:
    database = unbalanced_database
    folder = copy_sql(
        tmp_path,
        ("lock_events.sql", "for update of events", ""),
        ("transfer_tickets.sql", "and (tickets.status in ('reserved', 'purchased')) is true", ""),
        (
            "transfer_tickets.sql",
            "and (tickets.user_fingerprint = passing.user_fingerprint) is true",
            "",
        ),
    )
    urls = [start(database, sweeps=False, sql_dir=folder).url for _ in range(2)]
    with ExitStack() as stack:
        race = Race(urls, database, stack)
        rounds = (race.run(number, *STARTS[number % len(STARTS)]) for number in range(400))
        assert any(actual not in possible for possible, actual in rounds)
