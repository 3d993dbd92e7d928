"""A sale through a generated client: every response and refusal has a type.

``sale.py <the service's URL> <the organizer's token>`` prints the event after the sale.
"""

import json
import sys
from datetime import UTC, datetime
from uuid import UUID

from holdfast_client import AuthenticatedClient
from holdfast_client.api.events import create_event, find_event, list_events, update_event
from holdfast_client.api.fingerprints import create_fingerprint
from holdfast_client.api.health import check_health
from holdfast_client.api.ledger import check_event, list_ledger
from holdfast_client.api.reservations import (
    cancel_reservation,
    find_reservation,
    pay_reservation,
)
from holdfast_client.api.tickets import (
    cancel_ticket,
    find_ticket,
    list_event_tickets,
    list_user_tickets,
    pay_ticket,
    refund_ticket,
    reserve_tickets,
)
from holdfast_client.models import (
    AlreadyPurchasedInTheWay,
    Audit,
    BadRequest,
    CapacityBelowAllocated,
    CreateEventBody,
    Event,
    EventPage,
    Fingerprint,
    Health,
    IdempotencyKeyReused,
    LedgerPage,
    ListEventTicketsStatus,
    NotEnoughTickets,
    PayReservationBody,
    PayTicketBody,
    Reservation,
    ReservationStatus,
    ReserveTicketsBody,
    Ticket,
    TicketPage,
    TicketsSoldOut,
    TicketStatus,
    UpdateEventBody,
    WatchedEvent,
    WrongFingerprint,
)
from holdfast_client.types import UNSET, Unset


def sell(client: AuthenticatedClient) -> Event:
    """Sell all six tickets of an event, and return the event."""
    body = CreateEventBody("Sold from Python", datetime(2030, 1, 1, 20, tzinfo=UTC), 6)
    event = create_event.sync(client=client, body=body)
    assert isinstance(event, Event)
    page = list_events.sync(client=client, q="from python", available=True)
    assert isinstance(page, EventPage)
    assert [listed.id for listed in page.data] == [event.id]
    assert page.meta.total == 1

    fingerprint = create_fingerprint.sync(client=client)
    assert isinstance(fingerprint, Fingerprint)
    user = fingerprint.user_fingerprint
    two = ReserveTicketsBody(2, user)
    tickets = reserve_tickets.sync(event.id, client=client, body=two, idempotency_key="order-1")
    assert isinstance(tickets, list)
    paid, cancelled = tickets
    assert paid.expires_at is not None
    assert paid.expires_at > datetime.now(UTC)

    replay = reserve_tickets.sync_detailed(
        event.id, client=client, body=two, idempotency_key="order-1"
    )
    assert replay.parsed == tickets
    assert replay.headers["Idempotency-Replayed"] == "true"
    reused = reserve_tickets.sync(
        event.id, client=client, body=ReserveTicketsBody(1, user), idempotency_key="order-1"
    )
    assert isinstance(reused, IdempotencyKeyReused)

    own = find_ticket.sync(paid.id, client=client, x_user_fingerprint=user)
    assert isinstance(own, Ticket)
    assert own.user_fingerprint == user
    anonymous = find_ticket.sync(paid.id, client=client)
    assert isinstance(anonymous, Ticket)
    assert not anonymous.user_fingerprint

    wrong = pay_ticket.sync(paid.id, client=client, body=PayTicketBody("somebody-else"))
    assert isinstance(wrong, WrongFingerprint)
    ticket = pay_ticket.sync(paid.id, client=client, body=PayTicketBody(user))
    assert isinstance(ticket, Ticket)
    assert (ticket.status, ticket.expires_at) == (TicketStatus.PURCHASED, None)
    ticket = cancel_ticket.sync(cancelled.id, client=client, x_user_fingerprint=user)
    assert isinstance(ticket, Ticket)
    assert ticket.status == TicketStatus.USER_CANCELLED

    sell_reservations(client, event, user)
    refuse(client, event, user)
    return prove(client, event, user)


def sell_reservations(client: AuthenticatedClient, event: Event, user: str) -> None:
    """Pay for a reservation of three tickets, and cancel one of two."""
    three = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(3, user))
    assert isinstance(three, list)
    reservation_id = three[0].reservation_id
    reservation = find_reservation.sync(reservation_id, client=client, x_user_fingerprint=user)
    assert isinstance(reservation, Reservation)
    assert reservation.tickets == three
    paid = pay_reservation.sync(reservation_id, client=client, body=PayReservationBody(user))
    assert isinstance(paid, Reservation)
    assert paid.status == ReservationStatus.PURCHASED
    again = pay_reservation.sync(reservation_id, client=client, body=PayReservationBody(user))
    assert isinstance(again, AlreadyPurchasedInTheWay)
    assert again.details.ticket_id == three[0].id

    two = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(2, user))
    assert isinstance(two, list)
    cancelled = cancel_reservation.sync(
        two[0].reservation_id, client=client, x_user_fingerprint=user
    )
    assert isinstance(cancelled, Reservation)
    assert cancelled.status == ReservationStatus.USER_CANCELLED


def refuse(client: AuthenticatedClient, event: Event, user: str) -> None:
    """Cause refusals; each has a type, and its details have typed fields."""
    three = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(3, user))
    assert isinstance(three, NotEnoughTickets)
    assert three.details.available_tickets == 2
    rest = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(2, user))
    assert isinstance(rest, list)
    none = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(1, user))
    assert isinstance(none, TicketsSoldOut)
    assert none.error == "Not enough tickets available"
    assert none.details.available_tickets == 0

    bad = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(0, ""))
    assert isinstance(bad, BadRequest)
    assert bad.details
    assert [detail.field for detail in bad.details] == ["quantity", "userFingerprint"]
    small = update_event.sync(event.id, client=client, body=UpdateEventBody(total_tickets=5))
    assert isinstance(small, CapacityBelowAllocated)
    assert small.details.allocated_tickets == 6


def walk(client: AuthenticatedClient, event: Event, limit: int) -> list[Ticket]:
    """List all tickets of an event that are sold, by cursor."""
    sold: list[Ticket] = []
    after: UUID | Unset | None = UNSET
    while after is not None:
        page = list_event_tickets.sync(
            event.id,
            client=client,
            status=ListEventTicketsStatus.PURCHASED,
            limit=limit,
            after=after,
        )
        assert isinstance(page, TicketPage)
        sold += page.data
        after = page.meta.next_
    return sold


def prove(client: AuthenticatedClient, event: Event, user: str) -> Event:
    """Refund a purchase, sell the ticket again, and check the ledger and the audit."""
    sold = list_event_tickets.sync(event.id, client=client, status=ListEventTicketsStatus.PURCHASED)
    assert isinstance(sold, TicketPage)
    assert sold.meta.total == 4
    assert [ticket.id for ticket in walk(client, event, 3)] == [ticket.id for ticket in sold.data]
    ticket = refund_ticket.sync(sold.data[0].id, client=client)
    assert isinstance(ticket, Ticket)
    assert ticket.status == TicketStatus.REFUNDED
    last = reserve_tickets.sync(event.id, client=client, body=ReserveTicketsBody(1, user))
    assert isinstance(last, list)
    own = list_user_tickets.sync(client=client, x_user_fingerprint=user, limit=1)
    assert isinstance(own, TicketPage)
    assert own.data == last

    with client.get_httpx_client().stream("GET", f"/events/{event.id}/stream") as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data: "))
    watched = WatchedEvent.from_dict(json.loads(data.removeprefix("data: ")))
    assert watched.last_event.type_ == "reserved"

    ledger = list_ledger.sync(event.id, client=client)
    assert isinstance(ledger, LedgerPage)
    assert ledger.meta.next_ is None
    assert [entry.version for entry in ledger.data] == list(range(1, watched.version + 1))
    audit = check_event.sync(event.id, client=client)
    assert isinstance(audit, Audit)
    assert audit.ok
    health = check_health.sync(client=client)
    assert isinstance(health, Health)
    event_now = find_event.sync(event.id, client=client)
    assert isinstance(event_now, Event)
    assert event_now.version == watched.version
    return event_now


if __name__ == "__main__":
    url, token = sys.argv[1:]
    with AuthenticatedClient(url, token, raise_on_unexpected_status=True) as client:
        print(json.dumps(sell(client).to_dict()))
