"""The rules of the house in plain Python, and random steps in which the service follows them."""
# ruff: noqa: D102 -- a step's name is its sentence

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from httpx2 import Response
from hypothesis import HealthCheck, Phase, settings, stateful
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tests.support.client import Client
from tests.support.database import Database
from tests.support.waiting import at_once

NUMBERS = itertools.count(1)
DATE = datetime(2030, 1, 1, 20, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
"""When a hold was over whose time is up."""
UNKNOWN = "018f0000-0000-7000-8000-000000000001"
ENDS = {
    "purchased": "ALREADY_PURCHASED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
}


# The rules


@dataclass(frozen=True)
class Refused:
    """What is told when nothing is done."""

    status: int
    code: str
    details: dict[str, Any] | None = None


@dataclass(eq=False)
class Ticket:
    """One ticket that was handed out; its ids and times are for the service to choose."""

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
        """A hold whose time is up reads expired, whether or not anything has swept it."""
        is_over = self.status == "reserved" and self.expires_at == LONG_AGO
        return "expired" if is_over else self.status

    def in_the_way(self, user: str) -> Refused | None:
        """Why somebody may not pay for it or give it back, unless they may."""
        details = {"ticketId": self.id}
        if user != self.user:
            return Refused(403, "WRONG_FINGERPRINT", details)
        if self.status_now == "expired":
            return Refused(410, "HOLD_EXPIRED", details)
        return Refused(409, ENDS[self.status], details) if self.status in ENDS else None

    def pay(self) -> None:
        """What is paid for has no end."""
        self.status, self.expires_at = "purchased", None

    def cancel(self) -> None:
        """What is given back keeps the end that it had."""
        self.status = "user_cancelled"

    def refund(self) -> Refused | None:
        """The organiser takes a purchase back, once."""
        with self.event.transaction():
            if self.status == "purchased":
                self.status = "refunded"
                return None
            is_refunded = self.status == "refunded"
            return Refused(409, "ALREADY_REFUNDED" if is_refunded else "NOT_PURCHASED")

    def shown(self, to: str | None) -> dict[str, Any]:
        """As it is shown to somebody: whose it is, to its owner alone."""
        told = {
            "id": self.id,
            "eventId": self.event.id,
            "reservationId": self.reservation_id,
            "status": self.status_now,
            "expiresAt": self.expires_at,
            "createdAt": self.created_at,
        }
        return told | ({"userFingerprint": self.user} if to == self.user else {})


@dataclass(eq=False)
class Reservation:
    """Tickets that were asked for together, in their order."""

    event: "Event"
    tickets: list[Ticket]
    id: str = ""

    def learn(self, told: Sequence[dict[str, Any]]) -> None:
        """Take over the ids and times that the service has chosen."""
        assert len({one["id"] for one in told}) == len(self.tickets)
        self.id = told[0]["reservationId"]
        for ticket, one in zip(self.tickets, told, strict=True):
            ticket.id, ticket.reservation_id = one["id"], self.id
            ticket.created_at, ticket.expires_at = one["createdAt"], one["expiresAt"]
            assert one["createdAt"] < one["expiresAt"]

    def take(self, verb: str, user: str) -> Refused | None:
        """The owner pays for what is left of it, or cancels that, or is refused."""
        with self.event.transaction():
            own = [ticket for ticket in self.tickets if ticket.user == user]
            if not own:
                return self.tickets[0].in_the_way(user)
            held = [ticket for ticket in own if ticket.status_now == "reserved"]
            # A lapsed ticket stops a payment, a purchased one a cancellation.
            stops = {"pay": "expired", "cancel": "purchased"}[verb]
            then = {"pay": "purchased", "cancel": "expired"}[verb]
            for ticket in own:
                if ticket.status_now == stops:
                    return ticket.in_the_way(user)
            for ticket in held:
                getattr(ticket, verb)()
            if held:
                return None
            first = next((ticket for ticket in own if ticket.status_now == then), own[0])
            return first.in_the_way(user)

    def shown(self, to: str) -> dict[str, Any] | Refused:
        """The tickets that somebody owns of it; there must be one."""
        own = [ticket for ticket in self.tickets if ticket.user == to]
        if not own:
            return Refused(403, "WRONG_FINGERPRINT", {"ticketId": self.tickets[0].id})
        statuses = {one.status_now for one in own}
        ends = [one.expires_at for one in own if one.status_now == "reserved"]
        return {
            "id": self.id,
            "eventId": self.event.id,
            "status": statuses.pop() if len(statuses) == 1 else "mixed",
            "expiresAt": min(filter(None, ends), default=None),
            "tickets": [one.shown(to) for one in own],
        }


@dataclass(eq=False)
class Event:
    """An event, and all tickets that it ever handed out."""

    name: str
    total: int
    id: str = ""
    created_at: datetime = LONG_AGO
    version: int = 1
    tickets: list[Ticket] = field(default_factory=list)
    keys: dict[tuple[str, str], Reservation] = field(default_factory=dict)
    """What each key of each user has reserved here."""

    def _repr_pretty_(self, report: Any, _: bool) -> None:
        report.text(f"<{self.name}>")

    def count(self, *statuses: str) -> int:
        """How many tickets read so now."""
        return sum(ticket.status_now in statuses for ticket in self.tickets)

    @property
    def allocated(self) -> int:
        """How many tickets somebody has."""
        return self.count("reserved", "purchased")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is due expires first; that is a version more, and so is what comes then."""
        with self.step():
            for ticket in self.tickets:
                ticket.status = ticket.status_now
        with self.step():
            yield

    @contextmanager
    def step(self) -> Iterator[None]:
        """If anything changes, it is one version more."""
        before = self.total, [ticket.status for ticket in self.tickets]
        yield
        self.version += before != (self.total, [ticket.status for ticket in self.tickets])

    def reserve(self, quantity: int, user: str, key: str) -> Reservation | Refused:
        """All or nothing; what a key has reserved comes before any refusal."""
        with self.transaction():
            if known := self.keys.get((user, key)):
                is_same = quantity == len(known.tickets)
                return known if is_same else Refused(422, "IDEMPOTENCY_KEY_REUSED")
            available = self.total - self.allocated
            if quantity > available:
                word = "NOT_ENOUGH_TICKETS" if available else "TICKETS_SOLD_OUT"
                return Refused(409, word, {"availableTickets": available})
            new = Reservation(self, [Ticket(self, user) for _ in range(quantity)])
            self.tickets += new.tickets
            if key:
                self.keys[user, key] = new
            return new

    def resize(self, total: int) -> Refused | None:
        """It may shrink to what somebody has, and no further."""
        with self.transaction():
            if total < self.allocated:
                details = {"allocatedTickets": self.allocated}
                return Refused(409, "CAPACITY_BELOW_ALLOCATED", details)
            self.total = total
            return None

    def shown(self) -> dict[str, Any]:
        """As it is shown to everybody."""
        return {
            "id": self.id,
            "name": self.name,
            "date": DATE,
            "totalTickets": self.total,
            "allocatedTickets": self.allocated,
            "availableTickets": self.total - self.allocated,
            "reservedTickets": self.count("reserved"),
            "purchasedTickets": self.count("purchased"),
            "version": self.version,
            "createdAt": self.created_at,
        }


def explains(order: Sequence[tuple[Response, str]], whole: Reservation, user: str) -> bool:
    """Whether the responses are those of requests that were served in this order."""
    try:
        for response, verb in order:
            agree(response, whole.take(verb, user) or whole.shown(user))
    except AssertionError:
        return False
    return True


def listed(
    tickets: Sequence[Ticket], to: str | None, status: str, page: int, limit: int
) -> dict[str, Any]:
    """A page of a list, '' for any status; the newest come first."""
    found = [ticket for ticket in tickets if status in ("", ticket.status_now)]
    found.sort(key=lambda ticket: (ticket.created_at, ticket.id), reverse=True)
    total, pages = len(found), -(-len(found) // limit)
    return {
        "data": [ticket.shown(to) for ticket in found[(page - 1) * limit : page * limit]],
        "meta": {"total": total, "page": page, "limit": limit, "pages": pages},
    }


# The steps


def read(response: Response) -> Any:
    """Return what an response says, its times as times; when a row was touched is left out."""

    def read_object(told: dict[str, Any]) -> dict[str, Any]:
        for name in {"date", "createdAt", "expiresAt"} & told.keys():
            told[name] = told[name] and datetime.fromisoformat(told[name])
        told.pop("updatedAt", None)
        return told

    return json.loads(response.text, object_hook=read_object)


def agree(response: Response, rules: Any, *, status: int = 200, is_repeat: bool = False) -> None:
    """Assert that the service has answered what the rules say."""
    told = read(response)
    if isinstance(rules, Refused):
        assert response.status_code == rules.status, response.text
        assert (told["code"], told.get("details")) == (rules.code, rules.details)
    else:
        assert response.status_code == status, response.text
        assert told == rules
    assert response.headers.get("Idempotency-Replayed") == ("true" if is_repeat else None)


COUNTS = (
    "select total_tickets, allocated_tickets, purchased_tickets, version from events where id = %s"
)
ROWS = """
    select id::text, reservation_id::text, user_fingerprint, status::text, expires_at
    from ticket_allocations where event_id = %s
    order by created_at, reservation_id, position
"""

New = stateful.MultipleResults[Reservation]
reservations = Bundle[Reservation]("reservations")
events = reservations.map(lambda one: one.event)
tickets = reservations.flatmap(lambda one: st.sampled_from(one.tickets))
totals = st.integers(1, 9)
quantities = st.integers(1, 4)
users = st.sampled_from(["alice", "bob"])
owner_or_user = st.just("") | users
keys = st.sampled_from(["", "one", "two"])
verbs = st.sampled_from(["pay", "cancel"])
statuses = st.sampled_from(["", "reserved", "expired", "purchased"])
of_one = st.sampled_from(
    ["find_ticket", "pay", "cancel", "refund", "reserve", "list_event_tickets"]
)
of_whole = st.sampled_from(["find_reservation", "pay_reservation", "cancel_reservation"])


class TicketOffice(RuleBasedStateMachine):
    """Takes each step twice, with the service and by the rules, and then compares all there is."""

    def __init__(self, client: Client, connection: psycopg.Connection) -> None:
        super().__init__()
        self.client = client
        self.connection = connection
        self.number = next(NUMBERS)
        self.events: list[Event] = []

    def name(self, user: str) -> str:
        """Nobody of this example is anybody of another."""
        return f"{user}-{self.number}"

    @initialize(target=reservations, sizes=st.lists(totals, min_size=1, max_size=2), user=users)
    def events_are_made_and_each_has_a_guest(self, sizes: list[int], user: str) -> New:
        for number, total in enumerate(sizes):
            event = Event(f"Event {self.number}.{number}", total)
            body = {"name": event.name, "date": DATE.isoformat(), "totalTickets": total}
            response = self.client.post("/events", json=body)
            event.id, event.created_at = read(response)["id"], read(response)["createdAt"]
            agree(response, event.shown(), status=201)
            agree(self.client.post("/events", json=body), Refused(409, "EVENT_EXISTS"))
            self.events.append(event)
        held = [(event, min(event.total, 3)) for event in self.events]
        return multiple(*[one for each in held for one in self.reserve(*each, self.name(user))])

    def reserve(
        self, event: Event, quantity: int, user: str, key: str = "", told: Response | None = None
    ) -> list[Reservation]:
        """Reserve, unless the service was asked already; return what is new."""
        response = self.client.reserve(event.id, quantity, user, key) if told is None else told
        is_repeat = (user, key) in event.keys
        found = event.reserve(quantity, user, key)
        if isinstance(found, Refused):
            agree(response, found)
            return []
        if not is_repeat:
            assert response.status_code == 201, response.text
            found.learn(read(response))
        shown = [ticket.shown(user) for ticket in found.tickets]
        agree(response, shown, status=201, is_repeat=is_repeat)
        return [] if is_repeat else [found]

    @rule(target=reservations, event=events, quantity=quantities, user=users, key=keys)
    def somebody_reserves(self, event: Event, quantity: int, user: str, key: str) -> New:
        return multiple(*self.reserve(event, quantity, self.name(user), key))

    @rule(target=reservations, event=events, people=st.integers(2, 6))
    def a_crowd_wants_a_ticket_each_at_once(self, event: Event, people: int) -> New:
        crowd = [self.name(f"person-{n}") for n in range(people)]
        before = event.version
        responses = at_once(*[partial(self.client.reserve, event.id, 1, user) for user in crowd])
        # In the order that explains it, whoever got one comes before whoever got none.
        order = sorted(zip(responses, crowd, strict=True), key=lambda one: one[0].status_code)
        new = [new for told, user in order for new in self.reserve(event, 1, user, told=told)]
        # By the rules each had a transaction; the service may have served several in one.
        version = self.client.find_event(event.id)["version"]
        assert min(before + 1, event.version) <= version <= event.version
        event.version = version
        return multiple(*new)

    @rule(target=reservations, event=events, quantity=quantities, user=users)
    def a_key_is_sent_often_at_once(self, event: Event, quantity: int, user: str) -> New:
        asked = quantity, self.name(user), "one"
        responses = at_once(*[partial(self.client.reserve, event.id, *asked)] * 3)
        # In the order that explains it, the one that reserves comes before its repeats.
        responses.sort(key=lambda response: "Idempotency-Replayed" in response.headers)
        return multiple(*[new for told in responses for new in self.reserve(event, *asked, told)])

    @rule(ticket=tickets, asker=owner_or_user, verb=verbs)
    def a_ticket_is_paid_for_or_cancelled(self, ticket: Ticket, asker: str, verb: str) -> None:
        user = self.name(asker) if asker else ticket.user
        response = getattr(self.client, verb)(ticket.id, user)
        refusal = Reservation(ticket.event, [ticket]).take(verb, user)
        # There is no need to tell which ticket is in the way.
        agree(response, replace(refusal, details=None) if refusal else ticket.shown(user))

    @rule(whole=reservations, asker=owner_or_user, verb=verbs)
    def all_are_paid_for_or_cancelled(self, whole: Reservation, asker: str, verb: str) -> None:
        user = self.name(asker) if asker else whole.tickets[0].user
        response = getattr(self.client, f"{verb}_reservation")(whole.id, user)
        agree(response, whole.take(verb, user) or whole.shown(user))

    @rule(whole=reservations, asked=st.lists(verbs, min_size=2, max_size=3))
    def all_are_paid_for_or_cancelled_at_once(self, whole: Reservation, asked: list[str]) -> None:
        user = whole.tickets[0].user
        sent = [getattr(self.client, f"{verb}_reservation") for verb in asked]
        responses = at_once(*[partial(send, whole.id, user) for send in sent])
        orders = itertools.permutations(zip(responses, asked, strict=True))
        explained = [order for order in orders if explains(order, deepcopy(whole), user)]
        assert explained, f"no order of {asked} explains {responses}"
        for _, verb in explained[0]:
            whole.take(verb, user)
        # If chance has decided, the tickets come back: what follows must not hang on it.
        for ticket in whole.tickets if len(set(asked)) > 1 else []:
            self.a_ticket_is_refunded(ticket)

    @rule(ticket=tickets)
    def a_ticket_is_refunded(self, ticket: Ticket) -> None:
        response = self.client.refund(ticket.id)
        agree(response, ticket.refund() or ticket.shown(None))

    @rule(event=events, total=totals)
    def an_event_is_resized(self, event: Event, total: int) -> None:
        response = self.client.update_event(event.id, totalTickets=total)
        agree(response, event.resize(total) or event.shown())

    @rule(ticket=tickets, all_of_the_event=st.booleans())
    def the_time_is_up(self, ticket: Ticket, all_of_the_event: bool) -> None:
        for one in ticket.event.tickets if all_of_the_event else [ticket]:
            if one.status == "reserved":
                one.expires_at = LONG_AGO
                self.set_by_hand("expires_at", LONG_AGO, one)
        # Nothing has swept them yet.
        self.tickets_are_listed(ticket.event, "alice", status="expired", page=1, limit=9)

    @rule(whole=reservations)
    def the_last_ticket_changes_hands(self, whole: Reservation) -> None:
        whole.tickets[-1].user = self.name("carol")
        self.set_by_hand("user_fingerprint", self.name("carol"), whole.tickets[-1])

    def set_by_hand(self, column: str, value: object, ticket: Ticket) -> None:
        sql = f"update ticket_allocations set {column} = %s where id = %s"
        self.connection.execute(sql.encode(), [value, ticket.id])

    @rule(whole=reservations, asker=owner_or_user)
    def somebody_looks_at_all(self, whole: Reservation, asker: str) -> None:
        user = self.name(asker) if asker else whole.tickets[0].user
        agree(self.client.find_reservation(whole.id, user), whole.shown(user))
        for ticket in whole.tickets:
            agree(self.client.find_ticket(ticket.id), ticket.shown(None))
            agree(self.client.find_ticket(ticket.id, user), ticket.shown(user))

    @rule(
        event=events, user=users, status=statuses, page=st.integers(1, 2), limit=st.integers(1, 5)
    )
    def tickets_are_listed(self, event: Event, user: str, **query: Any) -> None:
        user = self.name(user)
        mine = [one for event in self.events for one in event.tickets if one.user == user]
        asked = {name: value for name, value in query.items() if value}
        agree(self.client.list_user_tickets(user, **asked), listed(mine, user, **query))
        agree(
            self.client.list_event_tickets(event.id, **asked), listed(event.tickets, None, **query)
        )

    @rule(verb=of_one | of_whole)
    def what_does_not_exist_is_not_found(self, verb: str) -> None:
        agree(getattr(self.client, verb)(UNKNOWN), Refused(404, "NOT_FOUND"))
        agree(self.client.update_event(UNKNOWN, totalTickets=1), Refused(404, "NOT_FOUND"))

    @invariant()
    def all_is_shown_and_stored_as_the_rules_say(self) -> None:
        for event in self.events:
            agree(self.client.get(f"/events/{event.id}"), event.shown())
            counts = self.connection.execute(COUNTS, [event.id]).fetchone()
            rows = self.connection.execute(ROWS, [event.id]).fetchall()
            # The sort leaves the tickets of one reservation in their order.
            tickets = sorted(event.tickets, key=lambda one: (one.created_at, one.reservation_id))
            assert rows == [
                (one.id, one.reservation_id, one.user, one.status, one.expires_at)
                for one in tickets
            ]
            # A hold whose time is up is counted until it is swept.
            stored = [ticket.status for ticket in tickets]
            purchased = stored.count("purchased")
            allocated = stored.count("reserved") + purchased
            assert counts == (event.total, allocated, purchased, event.version)


Run = Callable[[settings], None]


@pytest.fixture
def run(client: Client, database: Database, tmp_path: Path) -> Iterator[Run]:
    """Takes the steps of all examples with one service on one database."""
    set_hypothesis_home_dir(tmp_path)  # or else it leaves a folder in the tree
    with database.connect() as connection:
        connection.autocommit = True
        office: Any = partial(TicketOffice, client, connection)
        yield lambda chosen: stateful.run_state_machine_as_test(office, settings=chosen)


EXAMPLES = settings(
    max_examples=60,
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
