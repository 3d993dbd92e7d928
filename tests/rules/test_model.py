"""A model of the rules in plain Python, which random steps compare with the service."""
# ruff: noqa: D102 -- the name of a step describes it

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from httpx2 import Response
from hypothesis import HealthCheck, Phase, settings, stateful
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tests.support.citus import CITUS
from tests.support.client import Client
from tests.support.database import Database
from tests.support.waiting import at_once

EXAMPLE_NUMBERS = itertools.count(1)
DATE = datetime(2030, 1, 1, 20, tzinfo=UTC)
# The end of every expired hold.
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
# Times before and after every example, for the opening and the closing of sales.
BEFORE = datetime(2001, 1, 1, tzinfo=UTC)
AFTER = datetime(2100, 1, 1, tzinfo=UTC)
# HOLD_SECONDS of the service.
HOLD_SECONDS = 900
UNKNOWN = "018f0000-0000-7000-8000-000000000001"
# The refusal of a ticket that is not held any more, by its status.
ALREADY = {
    "purchased": "ALREADY_PURCHASED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
}


TERMS = ("saleOpensAt", "saleClosesAt", "holdSeconds", "maxHoldSeconds", "maxTicketsPerPerson")
TIMES = {"date", "createdAt", "expiresAt", "saleOpensAt", "saleClosesAt"}


# The model


@dataclass(frozen=True)
class Refused:
    """A refusal: nothing was changed."""

    status: int
    code: str
    # For bad terms of sale the names of the fields.
    details: dict[str, Any] | list[str] | None = None


@dataclass(eq=False)
class Ticket:
    """An allocated ticket. The service chooses its ids and times."""

    event: "Event"
    user: str
    status: str = "reserved"
    id: str = ""
    reservation_id: str = ""
    created_at: datetime = LONG_AGO
    expires_at: datetime | None = None

    def _repr_pretty_(self, report: Any, _: bool) -> None:
        report.text(f"<a ticket of {self.user} for {self.event.name}>")

    @property
    def status_now(self) -> str:
        """The status, which is expired once a hold's time is up, swept or not."""
        is_expired = self.status == "reserved" and self.expires_at == LONG_AGO
        return "expired" if is_expired else self.status

    def refusal(self, user: str) -> Refused | None:
        """Return why a user cannot pay for or cancel this ticket; None if they can."""
        details = {"ticketId": self.id}
        if user != self.user:
            return Refused(403, "WRONG_FINGERPRINT", details)
        if self.status_now == "expired":
            return Refused(410, "HOLD_EXPIRED", details)
        return Refused(409, ALREADY[self.status], details) if self.status in ALREADY else None

    def pay(self) -> None:
        """Mark it as purchased, which has no end."""
        self.status, self.expires_at = "purchased", None

    def cancel(self) -> None:
        """Mark it as cancelled, which keeps the end of its hold."""
        self.status = "user_cancelled"

    def refund(self) -> Refused | None:
        """Refund a purchased ticket for the organizer, once."""
        with self.event.transaction():
            if self.status == "purchased":
                self.status = "refunded"
                return None
            is_refunded = self.status == "refunded"
            return Refused(409, "ALREADY_REFUNDED" if is_refunded else "NOT_PURCHASED")

    def transfer(self, user: str, new_user: str) -> Refused | None:
        """Give it to a new owner, if it is held or purchased."""
        if user == new_user:
            return Refused(400, "BAD_REQUEST", ["newUserFingerprint"])
        with self.event.transaction():
            if user != self.user:
                return Refused(403, "WRONG_FINGERPRINT")
            if self.status_now not in ("reserved", "purchased"):
                return replace(self.refusal(user) or Refused(500, ""), details=None)
            if refusal := self.event.refusal_by_limit(1, new_user):
                return refusal
            self.user = new_user
            return None

    def response(self, user: str | None) -> dict[str, Any]:
        """Return the JSON of the ticket for a user; only its owner sees the fingerprint."""
        body = {
            "id": self.id,
            "eventId": self.event.id,
            "reservationId": self.reservation_id,
            "status": self.status_now,
            "expiresAt": self.expires_at,
            "createdAt": self.created_at,
        }
        return body | ({"userFingerprint": self.user} if user == self.user else {})


@dataclass(eq=False)
class Reservation:
    """The tickets of one request, in order."""

    event: "Event"
    tickets: list[Ticket]
    id: str = ""

    def adopt_ids(self, bodies: Sequence[dict[str, Any]]) -> None:
        """Copy the ids and times that the service has chosen."""
        assert len({body["id"] for body in bodies}) == len(self.tickets)
        self.id = bodies[0]["reservationId"]
        for ticket, body in zip(self.tickets, bodies, strict=True):
            ticket.id, ticket.reservation_id = body["id"], self.id
            ticket.created_at, ticket.expires_at = body["createdAt"], body["expiresAt"]
            hold = timedelta(seconds=self.event.terms["holdSeconds"] or HOLD_SECONDS)
            assert body["expiresAt"] - body["createdAt"] == hold

    def change(self, verb: str, user: str) -> Refused | None:
        """Pay for or cancel the tickets that are still held, if the user owns them."""
        with self.event.transaction():
            own = [ticket for ticket in self.tickets if ticket.user == user]
            if not own:
                return self.tickets[0].refusal(user)
            if verb == "pay_late":
                verb = "pay"
                expired = [ticket for ticket in own if ticket.status_now == "expired"]
                if refusal := self.event.refusal_of_late_payment(len(expired), user):
                    return refusal
                for ticket in expired:
                    ticket.status, ticket.expires_at = "reserved", None
            held = [ticket for ticket in own if ticket.status_now == "reserved"]
            # An expired ticket blocks a payment, a purchased one a cancellation.
            blocking = {"pay": "expired", "cancel": "purchased"}[verb]
            deciding = {"pay": "purchased", "cancel": "expired"}[verb]
            for ticket in own:
                if ticket.status_now == blocking:
                    return ticket.refusal(user)
            for ticket in held:
                getattr(ticket, verb)()
            if held:
                return None
            first = next((ticket for ticket in own if ticket.status_now == deciding), own[0])
            return first.refusal(user)

    def response(self, user: str) -> dict[str, Any] | Refused:
        """Return the JSON of the reservation with the tickets that a user owns."""
        own = [ticket for ticket in self.tickets if ticket.user == user]
        if not own:
            return Refused(403, "WRONG_FINGERPRINT", {"ticketId": self.tickets[0].id})
        statuses = {ticket.status_now for ticket in own}
        ends = [ticket.expires_at for ticket in own if ticket.status_now == "reserved"]
        return {
            "id": self.id,
            "eventId": self.event.id,
            "status": statuses.pop() if len(statuses) == 1 else "mixed",
            "expiresAt": min(filter(None, ends), default=None),
            "tickets": [ticket.response(user) for ticket in own],
        }


@dataclass(eq=False)
class Event:
    """An event, with all tickets that it has ever allocated."""

    name: str
    total: int
    id: str = ""
    created_at: datetime = LONG_AGO
    version: int = 1
    revision: int = 1
    terms: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(TERMS))
    tickets: list[Ticket] = field(default_factory=list)
    # The reservation of each user and key.
    keys: dict[tuple[str, str], Reservation] = field(default_factory=dict)

    def _repr_pretty_(self, report: Any, _: bool) -> None:
        report.text(f"<{self.name}>")

    def count(self, *statuses: str) -> int:
        """Return how many tickets have one of these statuses now."""
        return sum(ticket.status_now in statuses for ticket in self.tickets)

    @property
    def allocated(self) -> int:
        """How many tickets are held or purchased."""
        return self.count("reserved", "purchased")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Expire due holds, then run the block; each adds a version if it changes anything."""
        with self.version_step():
            for ticket in self.tickets:
                ticket.status = ticket.status_now
        with self.version_step():
            yield

    @contextmanager
    def version_step(self) -> Iterator[None]:
        """Add a version if the block changes anything."""

        def state() -> Any:
            return self.revision, [(ticket.status, ticket.user) for ticket in self.tickets]

        before = state()
        yield
        self.version += before != state()

    def reserve(self, quantity: int, user: str, key: str) -> Reservation | Refused:
        """Reserve all tickets or none; a key that has reserved is replayed, never refused."""
        with self.transaction():
            if known := self.keys.get((user, key)):
                is_same = quantity == len(known.tickets)
                return known if is_same else Refused(422, "IDEMPOTENCY_KEY_REUSED")
            if refusal := self.refusal_by_terms(quantity, user):
                return refusal
            available = self.total - self.allocated
            if quantity > available:
                code = "NOT_ENOUGH_TICKETS" if available else "TICKETS_SOLD_OUT"
                return Refused(409, code, {"availableTickets": available})
            new = Reservation(self, [Ticket(self, user) for _ in range(quantity)])
            self.tickets += new.tickets
            if key:
                self.keys[user, key] = new
            return new

    @property
    def sale_status(self) -> str:
        """Whether the sale is upcoming, open or closed."""
        if self.terms["saleOpensAt"] == AFTER:
            return "upcoming"
        return "closed" if self.terms["saleClosesAt"] == BEFORE else "open"

    def refusal_by_terms(self, quantity: int, user: str) -> Refused | None:
        """Return why the terms of sale refuse a reservation; None if they do not."""
        if self.sale_status == "upcoming":
            return Refused(409, "SALE_NOT_OPEN", {"saleOpensAt": AFTER})
        if self.sale_status == "closed":
            return Refused(409, "SALE_CLOSED", {"saleClosesAt": BEFORE})
        return self.refusal_by_limit(quantity, user)

    def refusal_by_limit(self, quantity: int, user: str) -> Refused | None:
        """Return why a person cannot have so many tickets more; None if they can."""
        limit = self.terms["maxTicketsPerPerson"]
        own = [ticket.status_now for ticket in self.tickets if ticket.user == user]
        held, purchased = own.count("reserved"), own.count("purchased")
        if limit and held + purchased + quantity > limit:
            details = {"maxTicketsPerPerson": limit, "held": held, "purchased": purchased}
            return Refused(409, "LIMIT_REACHED", details)
        return None

    def refusal_of_late_payment(self, expired: int, user: str) -> Refused | None:
        """Return why expired tickets cannot be reacquired; None if they can."""
        if expired and (refusal := self.refusal_by_limit(expired, user)):
            return refusal
        available = self.total - self.allocated
        if expired > available:
            details = {"availableTickets": available, "waitingTickets": 0}
            return Refused(410, "HOLD_EXPIRED", details)
        return None

    def update(self, changes: dict[str, Any]) -> Refused | None:
        """Change the total and the terms; the total cannot shrink below the allocated tickets."""
        with self.transaction():
            changes = dict(changes)
            revision = changes.pop("revision", self.revision)
            total = changes.pop("totalTickets", self.total)
            terms = self.terms | changes
            contradictions = []
            if terms["saleOpensAt"] and terms["saleClosesAt"]:
                contradictions += ["saleOpensAt", "saleClosesAt"] * (
                    terms["saleOpensAt"] >= terms["saleClosesAt"]
                )
            if terms["holdSeconds"] and terms["maxHoldSeconds"]:
                contradictions += ["holdSeconds", "maxHoldSeconds"] * (
                    terms["holdSeconds"] > terms["maxHoldSeconds"]
                )
            if contradictions:
                return Refused(400, "BAD_REQUEST", contradictions)
            if revision != self.revision:
                return Refused(409, "EVENT_CHANGED", {"revision": self.revision})
            if total < self.allocated:
                details = {"allocatedTickets": self.allocated}
                return Refused(409, "CAPACITY_BELOW_ALLOCATED", details)
            self.revision += (self.total, self.terms) != (total, terms)
            self.total, self.terms = total, terms
            return None

    def response(self) -> dict[str, Any]:
        """Return the JSON of the event."""
        return {
            "id": self.id,
            "name": self.name,
            "date": DATE,
            "totalTickets": self.total,
            "allocatedTickets": self.allocated,
            "availableTickets": self.total - self.allocated,
            "reservedTickets": self.count("reserved"),
            "purchasedTickets": self.count("purchased"),
            "waitingTickets": 0,
            "version": self.version,
            "revision": self.revision,
            "saleStatus": self.sale_status,
            **self.terms,
            "createdAt": self.created_at,
        }


def explains(order: Sequence[tuple[Response, str]], reservation: Reservation, user: str) -> bool:
    """Whether requests that are served in this order would get these responses."""
    try:
        for response, verb in order:
            agree(response, reservation.change(verb, user) or reservation.response(user))
    except AssertionError:
        return False
    return True


def newest_first(tickets: Sequence[Ticket]) -> list[Ticket]:
    """Return tickets in the order of the lists."""
    return sorted(tickets, key=attrgetter("created_at", "id"), reverse=True)


def list_page(
    tickets: Sequence[Ticket], user: str | None, status: str, page: int, limit: int
) -> dict[str, Any]:
    """Return a page of a list, newest first; status '' matches all."""
    matches = newest_first([ticket for ticket in tickets if status in ("", ticket.status_now)])
    total, pages = len(matches), -(-len(matches) // limit)
    return {
        "data": [ticket.response(user) for ticket in matches[(page - 1) * limit : page * limit]],
        "meta": {"total": total, "page": page, "limit": limit, "pages": pages},
    }


def list_after(
    tickets: Sequence[Ticket], user: str | None, status: str, after: Ticket, limit: int
) -> dict[str, Any] | Refused:
    """Return the page that follows a ticket of a list; status '' matches all."""
    if after not in tickets:
        details: Any = ["after"]
        return Refused(400, "BAD_REQUEST", details)
    ordered = newest_first(tickets)
    following = ordered[ordered.index(after) + 1 :]
    matches = [ticket for ticket in following if status in ("", ticket.status_now)]
    return {
        "data": [ticket.response(user) for ticket in matches[:limit]],
        "meta": {"limit": limit, "next": matches[limit - 1].id if matches[limit:] else None},
    }


# The steps


def read(response: Response) -> Any:
    """Return the JSON of a response with times as datetimes, without updatedAt."""

    def parse_times(body: dict[str, Any]) -> dict[str, Any]:
        for name in TIMES & body.keys():
            body[name] = body[name] and datetime.fromisoformat(body[name])
        body.pop("updatedAt", None)
        return body

    return json.loads(response.text, object_hook=parse_times)


def agree(response: Response, expected: Any, *, status: int = 200, is_replay: bool = False) -> None:
    """Assert that a response of the service is what the model expects."""
    body = read(response)
    if isinstance(expected, Refused):
        assert response.status_code == expected.status, response.text
        details = body.get("details")
        if body["code"] == "BAD_REQUEST":
            details = [detail["field"] for detail in details]
        assert (body["code"], details) == (expected.code, expected.details)
    else:
        assert response.status_code == status, response.text
        assert body == expected
    assert response.headers.get("Idempotency-Replayed") == ("true" if is_replay else None)


COUNTS = (
    "select total_tickets, allocated_tickets, purchased_tickets, version from events where id = %s"
)
ROWS = """
    select id::text, reservation_id::text, user_fingerprint, status::text, expires_at
    from ticket_allocations where event_id = %s
    order by created_at, reservation_id, position
"""

NewReservations = stateful.MultipleResults[Reservation]
reservations = Bundle[Reservation]("reservations")
events = reservations.map(lambda reservation: reservation.event)
tickets = reservations.flatmap(lambda reservation: st.sampled_from(reservation.tickets))
totals = st.integers(1, 9)
quantities = st.integers(1, 4)
users = st.sampled_from(["alice", "bob"])
# '' stands for the owner.
owner_or_user = st.just("") | users
keys = st.sampled_from(["", "one", "two"])
verbs = st.sampled_from(["pay", "pay_late", "cancel"])
statuses = st.sampled_from(["", "reserved", "expired", "purchased"])
times = st.sampled_from([None, BEFORE, AFTER])
hold_lengths = st.sampled_from([None, 60, 600])
changed_terms = st.fixed_dictionaries(
    {},
    optional={
        "saleOpensAt": times,
        "saleClosesAt": times,
        "holdSeconds": hold_lengths,
        "maxHoldSeconds": hold_lengths,
        "maxTicketsPerPerson": st.none() | st.integers(1, 5),
    },
).filter(len)
ticket_methods = st.sampled_from(
    ["find_ticket", "pay", "pay_late", "cancel", "refund", "reserve", "list_event_tickets"]
)
reservation_methods = st.sampled_from(
    ["find_reservation", "pay_reservation", "pay_late_reservation", "cancel_reservation"]
)


class TicketOffice(RuleBasedStateMachine):
    """Takes each step in the service and in the model, and then compares everything."""

    def __init__(self, client: Client, connection: psycopg.Connection) -> None:
        super().__init__()
        self.client = client
        self.connection = connection
        self.number = next(EXAMPLE_NUMBERS)
        self.events: list[Event] = []

    def name(self, user: str) -> str:
        """Return a fingerprint that is unique to this example."""
        return f"{user}-{self.number}"

    @initialize(target=reservations, sizes=st.lists(totals, min_size=1, max_size=2), user=users)
    def create_events_with_a_reservation_each(self, sizes: list[int], user: str) -> NewReservations:
        for number, total in enumerate(sizes):
            event = Event(f"Event {self.number}.{number}", total)
            body = {"name": event.name, "date": DATE.isoformat(), "totalTickets": total}
            response = self.client.post("/events", json=body)
            event.id, event.created_at = read(response)["id"], read(response)["createdAt"]
            agree(response, event.response(), status=201)
            agree(self.client.post("/events", json=body), Refused(409, "EVENT_EXISTS"))
            self.events.append(event)
        return multiple(
            *[
                reservation
                for event in self.events
                for reservation in self.reserve(event, min(event.total, 3), self.name(user))
            ]
        )

    def reserve(
        self,
        event: Event,
        quantity: int,
        user: str,
        key: str = "",
        response: Response | None = None,
    ) -> list[Reservation]:
        """Reserve in the service, unless its response is given, and in the model.

        Returns:
            The reservation, if it is new.
        """
        if response is None:
            response = self.client.reserve(event.id, quantity, user, key)
        is_replay = (user, key) in event.keys
        result = event.reserve(quantity, user, key)
        if isinstance(result, Refused):
            agree(response, result)
            return []
        if not is_replay:
            assert response.status_code == 201, response.text
            result.adopt_ids(read(response))
        expected = [ticket.response(user) for ticket in result.tickets]
        agree(response, expected, status=201, is_replay=is_replay)
        return [] if is_replay else [result]

    @rule(target=reservations, event=events, quantity=quantities, user=users, key=keys)
    def a_user_reserves(self, event: Event, quantity: int, user: str, key: str) -> NewReservations:
        return multiple(*self.reserve(event, quantity, self.name(user), key))

    @rule(target=reservations, event=events, people=st.integers(2, 6))
    def a_crowd_reserves_one_ticket_each_at_once(
        self, event: Event, people: int
    ) -> NewReservations:
        return self.reserve_at_once(event, 1, [self.name(f"person-{n}") for n in range(people)])

    @rule(target=reservations, event=events, quantity=st.integers(1, 2), user=users)
    def a_person_sends_three_requests_at_once(
        self, event: Event, quantity: int, user: str
    ) -> NewReservations:
        return self.reserve_at_once(event, quantity, [self.name(user)] * 3)

    def reserve_at_once(self, event: Event, quantity: int, crowd: list[str]) -> NewReservations:
        before = event.version
        responses = at_once(
            *[partial(self.client.reserve, event.id, quantity, user) for user in crowd]
        )
        # The model serves the granted requests first, then the refused ones.
        order = sorted(zip(responses, crowd, strict=True), key=lambda pair: pair[0].status_code)
        new = [
            reservation
            for response, user in order
            for reservation in self.reserve(event, quantity, user, response=response)
        ]
        # In the model each has its own transaction; the service may serve several in one.
        version = self.client.find_event(event.id)["version"]
        assert min(before + 1, event.version) <= version <= event.version
        event.version = version
        return multiple(*new)

    @rule(target=reservations, event=events, quantity=quantities, user=users)
    def a_key_is_sent_three_times_at_once(
        self, event: Event, quantity: int, user: str
    ) -> NewReservations:
        arguments = quantity, self.name(user), "one"
        responses = at_once(*[partial(self.client.reserve, event.id, *arguments)] * 3)
        # The model serves the request that reserves before its replays.
        responses.sort(key=lambda response: "Idempotency-Replayed" in response.headers)
        return multiple(
            *[
                reservation
                for response in responses
                for reservation in self.reserve(event, *arguments, response)
            ]
        )

    @rule(ticket=tickets, requester=owner_or_user, verb=verbs)
    def a_ticket_is_paid_or_cancelled(self, ticket: Ticket, requester: str, verb: str) -> None:
        user = self.name(requester) if requester else ticket.user
        response = getattr(self.client, verb)(ticket.id, user)
        refusal = Reservation(ticket.event, [ticket]).change(verb, user)
        if refusal and refusal.details == {"ticketId": ticket.id}:
            refusal = replace(refusal, details=None)  # the path names the ticket
        agree(response, refusal or ticket.response(user))

    @rule(reservation=reservations, requester=owner_or_user, verb=verbs)
    def a_reservation_is_paid_or_cancelled(
        self, reservation: Reservation, requester: str, verb: str
    ) -> None:
        user = self.name(requester) if requester else reservation.tickets[0].user
        response = getattr(self.client, f"{verb}_reservation")(reservation.id, user)
        agree(response, reservation.change(verb, user) or reservation.response(user))

    @rule(reservation=reservations, chosen=st.lists(verbs, min_size=2, max_size=3))
    def a_reservation_is_paid_and_cancelled_at_once(
        self, reservation: Reservation, chosen: list[str]
    ) -> None:
        user = reservation.tickets[0].user
        methods = [getattr(self.client, f"{verb}_reservation") for verb in chosen]
        responses = at_once(*[partial(method, reservation.id, user) for method in methods])
        orders = itertools.permutations(zip(responses, chosen, strict=True))
        explained = [order for order in orders if explains(order, deepcopy(reservation), user)]
        assert explained, f"no order of {chosen} explains {responses}"
        for _, verb in explained[0]:
            reservation.change(verb, user)
        # If timing decided between payment and cancellation, undo it: the next steps must be
        # reproducible.
        for ticket in reservation.tickets if len(set(chosen)) > 1 else []:
            self.a_ticket_is_refunded(ticket)

    @rule(ticket=tickets)
    def a_ticket_is_refunded(self, ticket: Ticket) -> None:
        response = self.client.refund(ticket.id)
        agree(response, ticket.refund() or ticket.response(None))

    @rule(event=events, total=totals)
    def an_event_is_resized(self, event: Event, total: int) -> None:
        response = self.client.update_event(event.id, totalTickets=total)
        agree(response, event.update({"totalTickets": total}) or event.response())

    @rule(event=events, terms=changed_terms, revisions_behind=st.sampled_from([None, 0, 0, 1]))
    def the_terms_of_a_sale_change(
        self, event: Event, terms: dict[str, Any], revisions_behind: int | None
    ) -> None:
        changes = dict(terms)
        if revisions_behind is not None:
            changes["revision"] = max(1, event.revision - revisions_behind)
        sent = {
            name: value.isoformat() if name in TIMES and value else value
            for name, value in changes.items()
        }
        response = self.client.update_event(event.id, **sent)
        agree(response, event.update(changes) or event.response())

    @rule(ticket=tickets, all_of_the_event=st.booleans())
    def holds_expire(self, ticket: Ticket, all_of_the_event: bool) -> None:
        for held in ticket.event.tickets if all_of_the_event else [ticket]:
            if held.status == "reserved":
                held.expires_at = LONG_AGO
                self.update_with_sql("expires_at", LONG_AGO, held)
        # They have not been swept yet.
        self.tickets_are_listed(ticket.event, "alice", status="expired", page=1, limit=9)

    @rule(ticket=tickets, requester=owner_or_user, new_user=st.sampled_from(["bob", "carol"]))
    def a_ticket_is_transferred(self, ticket: Ticket, requester: str, new_user: str) -> None:
        user = self.name(requester) if requester else ticket.user
        new_user = self.name(new_user)
        response = self.client.transfer(ticket.id, new_user, user)
        agree(response, ticket.transfer(user, new_user) or ticket.response(new_user))

    def update_with_sql(self, column: str, value: object, ticket: Ticket) -> None:
        sql = f"update ticket_allocations set {column} = %s where id = %s"
        self.connection.execute(sql.encode(), [value, ticket.id])

    @rule(reservation=reservations, requester=owner_or_user)
    def a_reservation_and_its_tickets_are_found(
        self, reservation: Reservation, requester: str
    ) -> None:
        user = self.name(requester) if requester else reservation.tickets[0].user
        agree(self.client.find_reservation(reservation.id, user), reservation.response(user))
        for ticket in reservation.tickets:
            agree(self.client.find_ticket(ticket.id), ticket.response(None))
            agree(self.client.find_ticket(ticket.id, user), ticket.response(user))

    @rule(
        event=events, user=users, status=statuses, page=st.integers(1, 2), limit=st.integers(1, 5)
    )
    def tickets_are_listed(self, event: Event, user: str, **query: Any) -> None:
        user = self.name(user)
        own = [ticket for event in self.events for ticket in event.tickets if ticket.user == user]
        parameters = {name: value for name, value in query.items() if value}
        agree(self.client.list_user_tickets(user, **parameters), list_page(own, user, **query))
        response = self.client.list_event_tickets(event.id, **parameters)
        agree(response, list_page(event.tickets, None, **query))

    @rule(event=events, user=users, status=statuses, after=tickets, limit=st.integers(1, 5))
    def tickets_are_listed_after_one(
        self, event: Event, user: str, status: str, after: Ticket, limit: int
    ) -> None:
        user = self.name(user)
        own = [ticket for event in self.events for ticket in event.tickets if ticket.user == user]
        query = {"after": after.id, "limit": limit, **({"status": status} if status else {})}
        expected = list_after(own, user, status, after, limit)
        agree(self.client.list_user_tickets(user, **query), expected)
        expected = list_after(event.tickets, None, status, after, limit)
        agree(self.client.list_event_tickets(event.id, **query), expected)

    @rule(method=ticket_methods | reservation_methods)
    def an_unknown_id_is_not_found(self, method: str) -> None:
        agree(getattr(self.client, method)(UNKNOWN), Refused(404, "NOT_FOUND"))
        agree(self.client.update_event(UNKNOWN, totalTickets=1), Refused(404, "NOT_FOUND"))

    @invariant()
    def responses_and_rows_are_as_the_model_says(self) -> None:
        for event in self.events:
            agree(self.client.get(f"/events/{event.id}"), event.response())
            counts = self.connection.execute(COUNTS, [event.id]).fetchone()
            rows = self.connection.execute(ROWS, [event.id]).fetchall()
            # The sort is stable, so the tickets of one reservation stay in their order.
            tickets = sorted(event.tickets, key=attrgetter("created_at", "reservation_id"))
            assert rows == [
                (ticket.id, ticket.reservation_id, ticket.user, ticket.status, ticket.expires_at)
                for ticket in tickets
            ]
            # An expired hold is counted until it is swept.
            stored = [ticket.status for ticket in tickets]
            purchased = stored.count("purchased")
            allocated = stored.count("reserved") + purchased
            assert counts == (event.total, allocated, purchased, event.version)


Run = Callable[[settings], None]


@pytest.fixture
def run(client: Client, database: Database, tmp_path: Path) -> Iterator[Run]:
    """A function that runs examples with one service on one database."""
    set_hypothesis_home_dir(tmp_path)  # else it creates a folder in the repository
    with database.connect() as connection:
        connection.autocommit = True
        office: Any = partial(TicketOffice, client, connection)
        yield lambda options: stateful.run_state_machine_as_test(office, settings=options)


EXAMPLES = settings(
    max_examples=10 if CITUS else 60,  # there each step goes to a worker and back, many times
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
)


@pytest.mark.core
def test_the_service_follows_the_rules(run: Run) -> None:
    run(EXAMPLES)


@pytest.mark.slow
def test_the_service_follows_the_rules_in_random_steps(run: Run) -> None:
    run(settings(EXAMPLES, max_examples=500, stateful_step_count=40, derandomize=False))
