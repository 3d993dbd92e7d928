"""Late payments in a crowd: either the late payer or one of the crowd gets the last ticket."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter, run_service
from tests.support.sql_copies import Edit, copy_sql
from tests.support.waiting import WAIT_SECONDS

# The late payer and who wants to reserve the same ticket, each over a connection of their own.
CROWD = 5
NO_LOCK = ("lock_events.sql", "for update of events", "")
NO_COUNT = (
    "reacquire_tickets.sql",
    "(wanted > remaining[1] or waiting_tickets > 0)",
    "waiting_tickets > 0",
)

Race = dict[str, httpx2.Response]


def hold_last_tickets(client: Client, database: Database, rounds: int) -> list[tuple[str, str]]:
    """Let alice have held the only ticket of each event; return the events and the tickets."""
    held = []
    for number in range(rounds):
        event = client.create_event(tickets=1, name=f"Night {number}")
        held.append((event, client.hold(event)[0]))
    # The sweeper expires some of them before their race, and a request the others.
    database.psql("update ticket_allocations set expires_at = statement_timestamp()")
    return held


def race(urls: list[str], held: list[tuple[str, str]]) -> list[Race]:
    """Let alice pay for each ticket while a crowd reserves it; return the responses by person."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(base_url=url, timeout=WAIT_SECONDS))
            for url in (urls * CROWD)[: CROWD + 1]
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(clients)))

        def run(number: int, event: str, ticket: str) -> Race:
            requests: dict[str, Callable[[], httpx2.Response]] = {
                f"person-{n}": partial(client.reserve, event, 1, f"person-{n}")
                for n, client in enumerate(clients[1:])
            }
            requests["alice"] = partial(clients[0].pay_late, ticket)
            # Somebody else is sent first each time.
            people = sorted(requests)
            first = number % len(people)
            people = people[first:] + people[:first]
            futures = {person: pool.submit(requests[person]) for person in people}
            return {person: future.result() for person, future in futures.items()}

        return [run(number, *pair) for number, pair in enumerate(held)]


def winners(responses: Race) -> list[str]:
    """Return who got the ticket."""
    return [person for person, response in responses.items() if response.is_success]


@pytest.mark.parametrize("rounds", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_either_the_late_payer_or_one_of_the_crowd_gets_the_last_ticket(
    database: Database, rounds: int
) -> None:
    with run_service(database, workers=2) as client:
        held = hold_last_tickets(client, database, rounds)
        races = race([str(client.base_url)], held)
        for (_, ticket), responses in zip(held, races, strict=True):
            (winner,) = winners(responses)
            for person, response in responses.items():
                if person == winner:
                    continue
                lost = (410, "HOLD_EXPIRED") if person == "alice" else (409, "TICKETS_SOLD_OUT")
                assert code(response) == lost
                assert response.json()["details"]["availableTickets"] == 0
            status = client.find_ticket(ticket).json()["status"]
            assert status == ("purchased" if winner == "alice" else "expired")
    assert database.psql("select distinct allocated_tickets from events") == ["1"]


@pytest.mark.parametrize("edit", [NO_LOCK, NO_COUNT], ids=["the lock", "the count"])
def test_the_last_ticket_is_sold_twice_without_a_guard(
    unbalanced_database: Database, start: Starter, tmp_path: Path, edit: Edit
) -> None:
    database, folder = unbalanced_database, copy_sql(tmp_path, edit)
    database.psql("alter table events drop constraint events_never_oversold")
    urls = [start(database, sql_dir=folder).url for _ in range(2)]
    with Client(base_url=urls[0], timeout=WAIT_SECONDS) as client:
        held = hold_last_tickets(client, database, 40)
    assert any(len(winners(responses)) > 1 for responses in race(urls, held))
