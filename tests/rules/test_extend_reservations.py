"""Extending the holds of a reservation."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.rows import Uuid
from service.write_path.changes import Extend
from tests.support.batches import carry_out
from tests.support.batches import reserve as reserve_change
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService, Starter

pytestmark = pytest.mark.core


def held_for(ticket: dict[str, Any]) -> timedelta:
    """Return how long a ticket is held since it was made."""
    times = ticket["expiresAt"], ticket["createdAt"]
    expires_at, created_at = map(datetime.fromisoformat, times)
    return expires_at - created_at


def made_earlier(database: Database, seconds: int) -> None:
    """Let all holds have been made, and end, some seconds earlier."""
    database.psql(
        "alter table ticket_allocations disable trigger all;"
        f"update ticket_allocations set created_at = created_at - interval '{seconds} s',"
        f" expires_at = expires_at - interval '{seconds} s';"
        "alter table ticket_allocations enable trigger all"
    )


def reserve(client: Client, event: str, quantity: int = 2) -> str:
    """Reserve tickets and return the reservation's id."""
    return str(client.reserve(event, quantity).json()[0]["reservationId"])


def test_an_extension_holds_every_ticket_for_another_hold_from_now(
    client: Client, database: Database
) -> None:
    event = client.create_event(holdSeconds=600, maxHoldSeconds=1800)
    reservation = reserve(client, event)
    made_earlier(database, 300)
    version = client.find_event(event)["version"]
    response = client.extend_reservation(reservation)
    assert response.status_code == 200
    assert response.json() == client.find_reservation(reservation).json()
    tickets = response.json()["tickets"]
    assert len({ticket["expiresAt"] for ticket in tickets}) == 1
    assert timedelta(seconds=900) <= held_for(tickets[0]) < timedelta(seconds=910)
    assert client.find_event(event)["version"] == version
    assert [client.pay(ticket["id"]).status_code for ticket in tickets] == [200, 200]


def test_a_hold_never_lasts_longer_than_the_maximum(client: Client, database: Database) -> None:
    event = client.create_event(holdSeconds=600, maxHoldSeconds=700)
    reservation = reserve(client, event)
    made_earlier(database, 300)
    (first, _) = client.extend_reservation(reservation).json()["tickets"]
    assert held_for(first) == timedelta(seconds=700)
    refused = client.extend_reservation(reservation)
    assert code(refused) == (409, "HOLD_AT_MAXIMUM")
    assert refused.json()["details"] == {"expiresAt": first["expiresAt"]}


def test_the_settings_are_the_lengths_of_an_event_without_its_own(
    database: Database, start: Starter
) -> None:
    with start(database, sweeps=False, hold_seconds=60, max_hold_seconds=90).client() as client:
        reservation = reserve(client, client.create_event())
        made_earlier(database, 50)
        (ticket, _) = client.extend_reservation(reservation).json()["tickets"]
        assert held_for(ticket) == timedelta(seconds=90)


def test_the_maximum_is_never_less_than_the_hold_itself(client: Client, database: Database) -> None:
    event = client.create_event(holdSeconds=60)
    reservation = reserve(client, event)
    made_earlier(database, 50)
    # The maximum of the service is 1800 s.
    client.update_event(event, holdSeconds=3600).raise_for_status()
    (ticket, _) = client.extend_reservation(reservation).json()["tickets"]
    assert held_for(ticket) == timedelta(seconds=3600)


def test_an_extension_never_shortens_a_hold(client: Client) -> None:
    event = client.create_event(holdSeconds=600)
    reservation = reserve(client, event)
    before = client.find_reservation(reservation).json()
    client.update_event(event, holdSeconds=60, maxHoldSeconds=60).raise_for_status()
    assert code(client.extend_reservation(reservation)) == (409, "HOLD_AT_MAXIMUM")
    assert client.find_reservation(reservation).json() == before


def test_an_extension_shortens_no_hold_of_the_reservation(
    client: Client, database: Database
) -> None:
    event = client.create_event(holdSeconds=600)
    reservation = reserve(client, event)
    database.psql(
        "update ticket_allocations set expires_at = case position when 1 then '2090-01-01'"
        " else statement_timestamp() + interval '1 min' end"
    )
    first, second = client.extend_reservation(reservation).json()["tickets"]
    assert first["expiresAt"] == "2090-01-01T00:00:00Z"
    assert held_for(second) > timedelta(seconds=590)


@pytest.mark.parametrize(("gain", "status"), [("0.999 s", 409), ("1 s", 200)])
def test_an_extension_gains_at_least_a_second(
    client: Client, database: Database, gain: str, status: int
) -> None:
    # The maximum ends the hold, so the gain does not depend on the clock.
    event = client.create_event(holdSeconds=600, maxHoldSeconds=600)
    reservation = reserve(client, event)
    database.psql(
        "update ticket_allocations"
        f" set expires_at = created_at + interval '600 s' - interval '{gain}'"
    )
    assert client.extend_reservation(reservation).status_code == status


def test_of_two_owners_one_extends_only_their_own_holds(client: Client, database: Database) -> None:
    event = client.create_event(holdSeconds=600)
    tickets = client.reserve(event, 2).json()
    bobs = tickets[1]["id"]
    database.psql(f"update ticket_allocations set user_fingerprint = 'bob' where id = '{bobs}'")
    made_earlier(database, 300)
    before = client.find_ticket(bobs).json()
    (extended,) = client.extend_reservation(tickets[0]["reservationId"]).json()["tickets"]
    assert extended["id"] == tickets[0]["id"]
    assert client.find_ticket(bobs).json() == before


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("pay", (409, "ALREADY_PURCHASED")),
        ("cancel", (409, "ALREADY_CANCELLED")),
        ("expire", (410, "HOLD_EXPIRED")),
    ],
)
def test_a_reservation_without_holds_is_refused_as_its_payment_is(
    client: Client, database: Database, change: str, refusal: tuple[int, str]
) -> None:
    tickets = client.reserve(client.create_event(), 2).json()
    for ticket in tickets:
        if change == "expire":
            database.expire_hold(ticket["id"])
        else:
            getattr(client, change)(ticket["id"]).raise_for_status()
    response = client.extend_reservation(tickets[0]["reservationId"])
    assert code(response) == refusal
    assert response.json()["details"] == {"ticketId": tickets[0]["id"]}


def test_one_lapsed_hold_refuses_the_extension_of_all(client: Client, database: Database) -> None:
    tickets = client.reserve(client.create_event(), 2).json()
    database.expire_hold(tickets[1]["id"])
    response = client.extend_reservation(tickets[0]["reservationId"])
    assert code(response) == (410, "HOLD_EXPIRED")
    assert client.find_ticket(tickets[0]["id"]).json()["expiresAt"] == tickets[0]["expiresAt"]


def test_tickets_that_are_not_held_are_passed_over(client: Client, database: Database) -> None:
    tickets = client.reserve(client.create_event(), 3).json()
    client.pay(tickets[0]["id"]).raise_for_status()
    client.cancel(tickets[1]["id"]).raise_for_status()
    made_earlier(database, 100)
    extended = client.extend_reservation(tickets[0]["reservationId"]).json()["tickets"]
    assert [ticket["status"] for ticket in extended] == ["purchased", "user_cancelled", "reserved"]
    assert held_for(extended[2]) > held_for(tickets[2])


def test_only_the_owner_extends(client: Client) -> None:
    reservation = reserve(client, client.create_event())
    assert code(client.extend_reservation(reservation, "mallory")) == (403, "WRONG_FINGERPRINT")
    unknown = "018f0000-0000-7000-8000-000000000001"
    assert code(client.extend_reservation(unknown)) == (404, "NOT_FOUND")


def test_of_two_extensions_at_once_both_show_the_same_end(
    client: Client, database: Database, service: RunningService
) -> None:
    event = client.create_event(holdSeconds=600)
    reservation = reserve(client, event)
    made_earlier(database, 300)
    with ThreadPoolExecutor(2) as pool:
        with database.lock_event(event):
            results = [pool.submit(client.extend_reservation, reservation) for _ in range(2)]
            service.wait_until_accepted(2)
        responses = sorted((one.result() for one in results), key=lambda one: one.status_code)
    assert [response.status_code for response in responses] == [200, 409]
    end = responses[0].json()["expiresAt"]
    assert responses[1].json()["details"] == {"expiresAt": end}


def test_of_two_extensions_in_a_batch_the_first_extends(database: Database) -> None:
    event = Uuid(database.insert_event(tickets=2))
    (held,) = carry_out(database, [reserve_change(event, 2)])
    made_earlier(database, 300)
    extension = Extend(reservation_id=held.tickets[0].reservation_id, user_fingerprint="alice")
    first, second = carry_out(database, [extension] * 2)
    assert (first.code, second.code) == ("granted", "hold_at_maximum")
    assert first.tickets == second.tickets


# The hundred milliseconds around the end of a hold.
EARLIEST, LATEST = -0.05, 0.05


@pytest.mark.parametrize("tries", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_hold_is_either_extended_or_sold_to_another(
    client: Client, database: Database, tries: int
) -> None:
    """Around the end of each hold its owner extends it and somebody else reserves what is free."""
    event = client.create_event(tickets=tries)
    with ThreadPoolExecutor(16) as pool:
        reserved = list(pool.map(lambda _: reserve(client, event, 1), range(tries)))
        # The holds end one after another, 5 ms apart.
        database.psql(
            "update ticket_allocations as tickets "
            "set expires_at = statement_timestamp() + (200 + ends.n * 5) * interval '1 ms' "
            "from (select id, row_number() over () as n from ticket_allocations) "
            "as ends where tickets.id = ends.id"
        )
        ends = dict(
            line.split("|")
            for line in database.psql(
                "select reservation_id, extract(epoch from expires_at) from ticket_allocations"
            )
        )

        def extend(reservation: str) -> tuple[int, int]:
            moment = float(ends[reservation]) + random.uniform(EARLIEST, LATEST)
            time.sleep(max(0.0, moment - time.time()))
            extension = client.extend_reservation(reservation).status_code
            return extension, client.reserve(event, 1, "rival").status_code

        results = list(pool.map(extend, sorted(reserved, key=lambda one: float(ends[one]))))
    extended = Counter(extension for extension, _ in results)
    sold = Counter(sale for _, sale in results)[201]
    assert extended[200] + extended[410] == tries
    # Every ticket that was not extended, and no other, is sold to somebody else.
    while client.reserve(event, 1, "rival").status_code == 201:
        sold += 1
    assert sold == extended[410]
