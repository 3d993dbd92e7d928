"""Paying for tickets whose holds have expired, when the money is taken already."""

from typing import Any

import pytest

from service.rows import Uuid
from service.settings import resource
from service.write_path.changes import Pay, Reacquire
from tests.support.batches import carry_out, outcome_codes, reserve
from tests.support.client import Client, code
from tests.support.database import Database

pytestmark = pytest.mark.core


def late(database: Database) -> None:
    """Let every hold have ended a second ago; nothing has expired it yet."""
    database.psql(
        "update ticket_allocations set expires_at = now() - interval '1 s' "
        "where status = 'reserved'"
    )


def swept(client: Client, database: Database, event: str) -> None:
    """Let every hold have ended, and be expired."""
    late(database)
    assert client.update_event(event, name=f"Swept {event}").status_code == 200
    assert database.psql("select count(*) from ticket_allocations where status = 'reserved'") == [
        "0"
    ]


def hold(client: Client, event: str, quantity: int, user: str = "alice") -> tuple[str, list[str]]:
    """Reserve tickets and return the reservation's id and the tickets' ids."""
    tickets = client.reserve(event, quantity, user).json()
    return tickets[0]["reservationId"], [ticket["id"] for ticket in tickets]


def counts(client: Client, event: str) -> tuple[int, int]:
    """Return how many tickets are allocated and how many purchased."""
    found = client.find_event(event)
    return found["allocatedTickets"], found["purchasedTickets"]


def last_entry(client: Client, event: str) -> dict[str, Any]:
    """Return the last row of the ledger."""
    entries: list[dict[str, Any]] = client.list_ledger(event).json()["data"]
    return entries[-1]


@pytest.mark.parametrize("is_swept", [False, True], ids=["not swept", "swept"])
def test_an_expired_ticket_is_reacquired_and_purchased(
    client: Client, database: Database, is_swept: bool
) -> None:
    event = client.create_event(totalTickets=2)
    _, (ticket, _other) = hold(client, event, 2)
    if is_swept:
        swept(client, database, event)
    late(database)
    assert code(client.pay(ticket)) == (410, "HOLD_EXPIRED")
    response = client.pay_late(ticket)
    assert response.status_code == 200
    assert (response.json()["id"], response.json()["status"]) == (ticket, "purchased")
    assert response.json()["expiresAt"] is None
    assert counts(client, event) == (1, 1)
    entry = last_entry(client, event)
    assert entry["lastEvent"]["type"] == "purchased"
    assert (entry["reserved"], entry["purchased"]) == (1, 1)


def test_a_live_hold_is_simply_paid_for(client: Client) -> None:
    event = client.create_event(totalTickets=1)
    _, (ticket,) = hold(client, event, 1)
    assert client.pay_late(ticket).status_code == 200
    entry = last_entry(client, event)
    assert (entry["reserved"], entry["purchased"]) == (0, 1)


def test_a_reservation_gets_its_expired_tickets_back_and_pays_for_all(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=3)
    whole, tickets = hold(client, event, 3)
    database.psql(
        "update ticket_allocations set expires_at = now() - interval '1 s' "
        f"where id in ('{tickets[0]}', '{tickets[2]}')"
    )
    response = client.pay_late_reservation(whole)
    assert response.status_code == 200
    assert [ticket["id"] for ticket in response.json()["tickets"]] == tickets
    assert response.json()["status"] == "purchased"
    assert counts(client, event) == (3, 3)
    entry = last_entry(client, event)
    assert (entry["reserved"], entry["purchased"]) == (2, 3)


def test_expired_tickets_are_reacquired_all_or_none(client: Client, database: Database) -> None:
    event = client.create_event(totalTickets=3)
    whole, tickets = hold(client, event, 3)
    swept(client, database, event)
    client.hold(event, 1, user="bob")
    refused = client.pay_late_reservation(whole)
    assert code(refused) == (410, "HOLD_EXPIRED")
    assert refused.json()["details"]["availableTickets"] == 2
    assert {client.find_ticket(ticket).json()["status"] for ticket in tickets} == {"expired"}
    # A part of it fits.
    assert client.pay_late(tickets[1]).status_code == 200
    assert counts(client, event) == (2, 1)


def test_a_late_payment_of_a_sold_out_event_is_refused(client: Client, database: Database) -> None:
    event = client.create_event(totalTickets=1)
    _, (ticket,) = hold(client, event, 1)
    late(database)
    client.hold(event, 1, user="bob")
    refused = client.pay_late(ticket)
    assert code(refused) == (410, "HOLD_EXPIRED")
    assert refused.json()["details"]["availableTickets"] == 0
    assert counts(client, event) == (1, 0)


def test_a_late_payment_is_accepted_after_the_sale_has_closed(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=1)
    _, (ticket,) = hold(client, event, 1)
    client.update_event(event, saleClosesAt="now")
    late(database)
    assert client.pay_late(ticket).status_code == 200


def test_a_late_payment_counts_toward_the_limit_of_its_person(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=9, maxTicketsPerPerson=3)
    whole, tickets = hold(client, event, 2)
    swept(client, database, event)
    client.pay(client.hold(event, 1)[0])
    client.hold(event, 1)
    refused = client.pay_late_reservation(whole)
    assert code(refused) == (409, "LIMIT_REACHED")
    assert refused.json()["details"] == {"maxTicketsPerPerson": 3, "held": 1, "purchased": 1}
    assert client.pay_late(tickets[0]).status_code == 200
    assert code(client.pay_late(tickets[1])) == (409, "LIMIT_REACHED")


def test_a_hold_that_has_just_ended_counts_while_its_batch_pays_for_it(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=9, maxTicketsPerPerson=2)
    _, (lapsed,) = hold(client, event, 1)
    swept(client, database, event)
    whole, _ = hold(client, event, 2)
    late(database)
    # Without expire_tickets: as if they had ended after it.
    rows = database.psql(
        f"\\set ticket_ids '{{null,{lapsed}}}'\n\\set reservation_ids '{{{whole},null}}'\n"
        "\\set user_fingerprints '{alice,alice}'\n"
        f"\\i {resource('sql') / 'reacquire_tickets.sql'}"
    )
    outcomes = [row.split("|")[1] for row in rows]
    assert outcomes == ["granted", "granted", "limit_reached"]
    assert client.find_ticket(lapsed).json()["status"] == "expired"


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("pay", (409, "ALREADY_PURCHASED")),
        ("cancel", (409, "ALREADY_CANCELLED")),
        ("refund", (409, "ALREADY_REFUNDED")),
    ],
)
def test_a_ticket_that_did_not_expire_is_not_reacquired(
    client: Client, prepare: str, expected: tuple[int, str]
) -> None:
    event = client.create_event(totalTickets=2)
    whole, (ticket,) = hold(client, event, 1)
    if prepare != "cancel":
        client.pay(ticket)
    if prepare == "cancel":
        client.cancel(ticket)
    if prepare == "refund":
        client.refund(ticket)
    assert code(client.pay_late(ticket)) == expected
    refused = client.pay_late_reservation(whole)
    assert code(refused) == expected
    assert refused.json()["details"] == {"ticketId": ticket}


def test_a_late_payment_again_finds_its_ticket_purchased(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=1)
    whole, (ticket,) = hold(client, event, 1)
    late(database)
    assert client.pay_late_reservation(whole).status_code == 200
    assert code(client.pay_late_reservation(whole)) == (409, "ALREADY_PURCHASED")
    assert code(client.pay_late(ticket)) == (409, "ALREADY_PURCHASED")
    assert counts(client, event) == (1, 1)


def test_nobody_reacquires_the_tickets_of_another(client: Client, database: Database) -> None:
    event = client.create_event(totalTickets=1)
    whole, (ticket,) = hold(client, event, 1)
    late(database)
    assert code(client.pay_late(ticket, user="bob")) == (403, "WRONG_FINGERPRINT")
    assert code(client.pay_late_reservation(whole, user="bob")) == (403, "WRONG_FINGERPRINT")
    assert counts(client, event)[1] == 0


@pytest.mark.parametrize("word", ["refuse", "", None, 1, ["reacquire"], "Reacquire"])
def test_another_word_for_if_expired_is_refused(client: Client, word: Any) -> None:
    event = client.create_event(totalTickets=1)
    whole, (ticket,) = hold(client, event, 1)
    for response in (
        client.pay(ticket, ifExpired=word),
        client.pay_reservation(whole, ifExpired=word),
    ):
        assert code(response) == (400, "BAD_REQUEST")
        assert [bad["field"] for bad in response.json()["details"]] == ["ifExpired"]
    assert counts(client, event) == (1, 0)


def test_a_hold_is_found_among_many_that_are_due(client: Client, database: Database) -> None:
    # More holds are due than one batch expires; the asked one is due last.
    event = client.create_event(totalTickets=3001)
    database.psql(
        "insert into ticket_allocations (event_id, user_fingerprint, expires_at) "
        f"select '{event}', 'many', now() - interval '1 h' from generate_series(1, 3000);"
        f"update events set allocated_tickets = 3000, version = 2 where id = '{event}';"
        "insert into event_ledger (event_id, version, total_tickets, allocated_tickets, "
        f"purchased_tickets, reserved, last_event) select '{event}', 2, 3001, 3000, 0, 3000, "
        "'reserved'"
    )
    _, (ticket,) = hold(client, event, 1)
    database.psql(f"update ticket_allocations set expires_at = now() where id = '{ticket}'")
    assert client.pay_late(ticket).status_code == 200
    entry = last_entry(client, event)
    # It expired first, as the others of its batch did.
    assert (entry["reserved"], entry["purchased"]) == (1, 1)


def test_late_payments_of_one_batch_are_first_come_first_served(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=3, maxTicketsPerPerson=3)
    first, _ = hold(client, event, 2, user="alice")
    second, _ = hold(client, event, 1, user="bob")
    swept(client, database, event)
    third, _ = hold(client, event, 1, user="carol")
    changes = [
        Reacquire(reservation_id=Uuid(whole), user_fingerprint=user, max_tickets=9)
        for whole, user in ((first, "alice"), (second, "bob"), (third, "carol"))
    ]
    outcomes = carry_out(database, [*changes, reserve(Uuid(event), 1, "dave")])
    # Two were available: alice gets both, bob none, carol's are held, and dave comes too late.
    assert outcome_codes(outcomes) == ["granted", "hold_expired", "granted", "tickets_sold_out"]
    assert [outcome.tickets_reacquired for outcome in outcomes] == [2, 0, 0, 0]
    assert counts(client, event) == (3, 3)


def test_a_late_payment_that_is_refused_takes_nothing_from_those_behind_it(
    client: Client, database: Database
) -> None:
    event = client.create_event(totalTickets=3)
    first, _ = hold(client, event, 3, user="alice")
    swept(client, database, event)
    second, _ = hold(client, event, 2, user="bob")
    swept(client, database, event)
    client.hold(event, 1, user="carol")
    changes = [
        Reacquire(reservation_id=Uuid(whole), user_fingerprint=user, max_tickets=9)
        for whole, user in ((first, "alice"), (second, "bob"))
    ]
    assert outcome_codes(carry_out(database, changes)) == ["hold_expired", "granted"]


def test_both_kinds_of_payment_share_a_batch(client: Client, database: Database) -> None:
    event = client.create_event(totalTickets=2)
    _, (lapsed,) = hold(client, event, 1)
    late(database)
    _, (held,) = hold(client, event, 1, user="bob")
    outcomes = carry_out(
        database,
        [
            Pay(ticket_id=Uuid(held), user_fingerprint="bob"),
            Reacquire(ticket_id=Uuid(lapsed), user_fingerprint="alice"),
        ],
    )
    assert outcome_codes(outcomes) == ["granted", "granted"]
    assert counts(client, event) == (2, 2)


def test_late_payments_are_counted_by_how_they_ended(client: Client, database: Database) -> None:
    def counted() -> list[float]:
        lines = client.get("/metrics").text.splitlines()
        return [
            float(line.rpartition(" ")[2])
            for outcome in ("saved", "too_late")
            for line in lines
            if line.startswith(f'holdfast_late_payments_total{{outcome="{outcome}"}}')
        ]

    before = counted()
    event = client.create_event(totalTickets=1)
    _, (ticket,) = hold(client, event, 1)
    late(database)
    client.hold(event, 1, user="bob")
    client.pay_late(ticket)
    late(database)
    client.pay_late(ticket)
    client.pay_late(ticket)
    assert counted() == [before[0] + 1, before[1] + 1]
