"""A crowd in line and a crowd outside it, over several services and through kills."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import Starter, run_service, worker_pids
from tests.support.sql_copies import Edit, copy_sql
from tests.support.waiting import WAIT_SECONDS, wait_until

NO_LINE: list[Edit] = [
    ("reserve_tickets.sql", " or waiting_tickets > 0 then 0", " then 0"),
    ("reserve_tickets.sql", "when waiting_tickets > 0 then 'waiting_list_first'", ""),
]
NO_BLOCKING: list[Edit] = [
    ("offer_tickets.sql", "coalesce(passed.tickets, 0)::integer as passed", "0 as passed")
]

PEOPLE = 24
OUTSIDERS = 6
TICKETS = 4

# What the ledger knows of reservations outside the line while somebody waited.
JUMPED = """
select count(*) from event_ledger
where waiting_tickets > 0 and reserved > 0 and last_event <> 'offered'
"""
# The entries that more tickets have passed than the rule allows, while they waited.
PASSED_TOO_OFTEN = """
with entries as (
    select
        entries.position, entries.quantity, tickets.created_at as offered_at,
        coalesce(tickets.created_at, entries.left_at, clock_timestamp()) as ended_at
    from waiting_entries as entries
    left join ticket_allocations as tickets
        on entries.reservation_id = tickets.reservation_id and tickets.position = 1
    where entries.unservable_at is null
)
select count(*)
from entries
where quantity > 1 and 2 * quantity - 2 < (
    select sum(behind.quantity) from entries as behind
    where behind.position > entries.position and behind.offered_at < entries.ended_at
)
"""
# Whether tickets are available to the first in line.
HEAD_FITS = """
select exists (
    select from events
    cross join lateral (
        select quantity from waiting_entries
        where waiting_event_id = events.id order by position limit 1
    ) as head
    where head.quantity <= events.total_tickets - events.allocated_tickets
)
"""


def attempt(send: Callable[..., httpx2.Response], *arguments: Any) -> httpx2.Response | None:
    """Return the response to a request; None if it is lost, as in a kill."""
    try:
        return send(*arguments)
    except httpx2.TransportError:
        return None


class Crowd:
    """People who wait in line, and outsiders who try to get past it."""

    def __init__(self, urls: list[str], event: str) -> None:
        self.urls, self.event = urls, event
        self.over = threading.Event()
        self.offers = 0

    @contextmanager
    def client(self, number: int) -> Iterator[Client]:
        """A client of one of the services."""
        url = self.urls[number % len(self.urls)]
        with Client(base_url=url, timeout=WAIT_SECONDS) as client:
            yield client

    def wait_in_line(self, number: int) -> None:
        """Join twice, and pay for the offer, leave, or let it lapse."""
        chance = random.Random(number)
        with self.client(number) as client:
            for turn in range(2):
                user, quantity = f"person-{number}-{turn}", chance.choice([1, 1, 1, 2, 4])
                entry = self.until_answered(client, user, quantity)
                while entry["state"] == "waiting" and not self.over.is_set():
                    if chance.random() < 0.02:
                        attempt(client.leave_line, entry["id"], user)
                    entry = self.look(client, entry, user)
                if entry["state"] != "offered":
                    continue
                self.offers += 1
                if chance.random() < 0.7:
                    attempt(client.pay_reservation, entry["reservationId"], user)
                    # So that its tickets come back to the line.
                    attempt(client.refund_reservation, entry["reservationId"])
                elif chance.random() < 0.5:
                    attempt(client.leave_line, entry["id"], user)

    def until_answered(self, client: Client, user: str, quantity: int) -> dict[str, str]:
        """Join the line, again if the response is lost, and return the entry."""
        while True:
            response = attempt(client.join_line, self.event, quantity, user)
            if response is not None and response.status_code in (200, 201):
                entry: dict[str, str] = response.json()
                return entry

    def look(self, client: Client, entry: dict[str, str], user: str) -> dict[str, str]:
        """Return an entry as it is now, or as it was if the response is lost."""
        response = attempt(client.find_entry, entry["id"], user)
        is_found = response is not None and response.status_code == 200
        return response.json() if response and is_found else entry

    def push_in(self, number: int) -> None:
        """Try to reserve a ticket until the sale is over, and give back what one gets."""
        with self.client(number) as client:
            while not self.over.is_set():
                response = attempt(client.reserve, self.event, 1, f"outsider-{number}")
                if response is not None and response.status_code == 201:
                    for ticket in response.json():
                        attempt(client.cancel, ticket["id"], f"outsider-{number}")

    def run(self) -> None:
        """Run until everybody in the line is done."""
        with ThreadPoolExecutor(PEOPLE + OUTSIDERS) as pool:
            outside = [pool.submit(self.push_in, number) for number in range(OUTSIDERS)]
            inside = [pool.submit(self.wait_in_line, number) for number in range(PEOPLE)]
            try:
                for person in inside:
                    person.result(timeout=4 * WAIT_SECONDS)
            finally:
                self.over.set()
            for outsider in outside:
                outsider.result()


def count(database: Database, query: str) -> int:
    """Return a number from the database."""
    return int(database.psql(query)[0])


def test_nobody_jumps_the_line_and_no_group_is_passed_too_often(
    database: Database, start: Starter
) -> None:
    urls = [start(database).url for _ in range(2)]
    with start(database).client() as client:
        event = client.create_event(totalTickets=TICKETS, holdSeconds=1)
    crowd = Crowd(urls, event)
    crowd.run()
    assert crowd.offers > PEOPLE
    assert count(database, JUMPED) == 0
    assert count(database, PASSED_TOO_OFTEN) == 0
    wait_until(lambda: database.psql(HEAD_FITS) == ["f"])


@pytest.mark.parametrize(
    ("edits", "harm"),
    [(NO_LINE, JUMPED), (NO_BLOCKING, PASSED_TOO_OFTEN)],
    ids=["the line first", "blocking"],
)
def test_the_same_crowd_does_harm_without_its_guard(
    unbalanced_database: Database, start: Starter, tmp_path: Path, edits: list[Edit], harm: str
) -> None:
    database, folder = unbalanced_database, copy_sql(tmp_path, *edits)
    urls = [start(database, sql_dir=folder).url for _ in range(2)]
    with start(database, sql_dir=folder).client() as client:
        event = client.create_event(totalTickets=TICKETS, holdSeconds=1)
    Crowd(urls, event).run()
    assert count(database, harm) > 0


def test_the_line_survives_the_kills_of_workers(database: Database) -> None:
    with run_service(database, workers=2) as client:
        event = client.create_event(totalTickets=TICKETS, holdSeconds=1)
        crowd = Crowd([str(client.base_url)], event)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(crowd.run)
            for kill in range(3):
                wanted = 6 * kill + 3
                wait_until(partial(lambda offers: crowd.offers > offers or running.done(), wanted))
                assert client.process is not None
                os.kill(worker_pids(client.process.pid)[0], signal.SIGKILL)
            running.result()
        assert count(database, JUMPED) == 0
        assert count(database, PASSED_TOO_OFTEN) == 0
        wait_until(lambda: database.psql(HEAD_FITS) == ["f"])
