"""The demo's crowd: people who reserve tickets over HTTP and then pay, cancel or do nothing.

Everything that a person does is drawn from a random generator that is seeded with the person's
number, so that every run has the same people.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count

from service.cli.demo.client import Client, Response

# The most concurrent reservations of one event; other people wait. On a slow machine, payments
# would otherwise queue behind reservations until the holds expire.
MAX_RESERVING = 12
RATE_SAMPLES = 5  # the rate is calculated from the oldest and the newest of the last 5 samples

# What people do with their tickets, and the percentage of each.
BEHAVIORS = {
    "pay": 45,
    "repeat and pay": 10,
    "ask for more and pay": 10,
    "cancel": 12,
    "let expire": 23,
}
# The limit for one person in each event. Nobody reserves more at once, so only those who ask for
# more exceed it.
MAX_TICKETS_PER_PERSON = 2


@dataclass
class Event:
    """An event: its last known state, and the responses that the crowd got, counted."""

    name: str
    total: int
    people_per_second: float
    id: str = ""
    available: int = 0
    reserved: int = 0
    purchased: int = 0
    # Tickets that are "reserved", "purchased" and "cancelled" according to the responses.
    confirmed_tickets: Counter[str] = field(default_factory=Counter)
    # Requests by their response: "refused" (not enough tickets), "over the limit", "replayed" and
    # "other" (unexpected).
    requests: Counter[str] = field(default_factory=Counter)
    # For the rate: the time, and how many tickets had been reserved by then.
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES))

    @property
    def is_sold_out(self) -> bool:
        """Whether every ticket is purchased."""
        return self.purchased == self.total

    @property
    def rate(self) -> float:
        """The current rate of reservations, in tickets per second."""
        if len(self.samples) < 2:
            return 0.0
        (start, before), (end, after) = self.samples[0], self.samples[-1]
        return (after - before) / (end - start)

    async def create(self, client: Client) -> None:
        """Create the event."""
        body = {
            "name": self.name,
            "date": "2030-01-01T20:00:00Z",
            "totalTickets": self.total,
            "maxTicketsPerPerson": MAX_TICKETS_PER_PERSON,
        }
        self.id = (await client.fetch("POST", "/events", body))["id"]

    async def update(self, client: Client) -> None:
        """Read the state from the service."""
        event = await client.fetch("GET", f"/events/{self.id}")
        self.available = event["availableTickets"]
        self.reserved = event["reservedTickets"]
        self.purchased = event["purchasedTickets"]
        self.samples.append((asyncio.get_running_loop().time(), self.confirmed_tickets["reserved"]))

    async def sum_ledger(self, client: Client) -> Counter[str]:
        """Return how many tickets the event's ledger has of each kind of change."""
        tickets: Counter[str] = Counter()
        after: int | None = 0
        while after is not None:
            path = f"/events/{self.id}/ledger?after={after}&limit=1000"
            page = await client.fetch("GET", path)
            for entry in page["data"]:
                for kind in ("reserved", "purchased", "cancelled", "expired"):
                    tickets[kind] += entry[kind]
            after = page["meta"]["next"]
        return tickets


@dataclass(frozen=True)
class Person:
    """A member of the crowd."""

    fingerprint: str
    quantity: int
    behavior: str  # a key of BEHAVIORS
    delay_seconds: float  # between the reservation and the next request; shorter than a hold


def create_person(event_name: str, number: int, hold_seconds: int) -> Person:
    """Return the person with a number, who is the same in every run."""
    chance = random.Random(f"{event_name} {number}")  # noqa: S311 -- for variety, not for secrets
    return Person(
        fingerprint=f"{event_name.replace(' ', '-')}-{number}",
        quantity=chance.choice((1, 1, 2)),
        behavior=chance.choices(list(BEHAVIORS), list(BEHAVIORS.values()))[0],
        delay_seconds=chance.uniform(0.1, 0.6) * hold_seconds,
    )


class Crowd:
    """All people who want tickets of some events.

    Args:
        client: sends their requests.
        events: the events, already created.
        seconds: about how long people arrive; they arrive until the events are sold out.
        hold_seconds: how long the service holds a reservation.
    """

    def __init__(
        self, client: Client, events: Sequence[Event], seconds: float, hold_seconds: int
    ) -> None:
        self._client = client
        self._events = events
        self._hold_seconds = hold_seconds
        # People who arrive after so many seconds all pay: if they canceled or let a hold expire,
        # its tickets might not find another buyer.
        self._all_pay_after = seconds * 0.7
        self._timeout_seconds = seconds * 3 + 30

    async def run(self) -> None:
        """Buy until all events are sold out or time out; return when the last person is done."""
        async with asyncio.TaskGroup() as group:
            for event in self._events:
                group.create_task(self._sell_out(event, group))

    async def _sell_out(self, event: Event, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        reserving = asyncio.Semaphore(MAX_RESERVING)
        for number in count():
            await asyncio.sleep(start + number / event.people_per_second - loop.time())
            elapsed = loop.time() - start
            if event.is_sold_out or elapsed > self._timeout_seconds:
                return
            person = create_person(event.name, number, self._hold_seconds)
            await reserving.acquire()
            must_pay = elapsed > self._all_pay_after
            group.create_task(self._buy(event, person, reserving, must_pay=must_pay))

    async def _buy(
        self, event: Event, person: Person, reserving: asyncio.Semaphore, *, must_pay: bool
    ) -> None:
        """Reserve tickets, and then pay, cancel or do nothing, as the person behaves."""
        try:
            reservation_id = await self._reserve(event, person)
        finally:
            reserving.release()
        if reservation_id is None:
            return
        event.confirmed_tickets["reserved"] += person.quantity
        if person.behavior == "repeat and pay":
            is_replay = await self._reserve(event, person) == reservation_id
            event.requests["replayed" if is_replay else "other"] += 1
        if person.behavior == "ask for more and pay":
            await self._ask_for_more(event, person)
        await asyncio.sleep(person.delay_seconds)
        path = f"/reservations/{reservation_id}"
        if must_pay or person.behavior in ("pay", "repeat and pay", "ask for more and pay"):
            owner = {"userFingerprint": person.fingerprint}
            response = await self._client.send("POST", f"{path}/payment", owner)
            _count(event, person, response, "purchased")
        elif person.behavior == "cancel":
            headers = {"X-User-Fingerprint": person.fingerprint}
            response = await self._client.send("DELETE", path, headers=headers)
            _count(event, person, response, "cancelled")

    async def _reserve(self, event: Event, person: Person) -> str | None:
        """Return the reservation's ID, or None if the reservation was refused."""
        response = await self._client.send(
            "POST",
            f"/events/{event.id}/tickets",
            {"quantity": person.quantity, "userFingerprint": person.fingerprint},
            {"Idempotency-Key": f"of-{person.fingerprint}"},
        )
        if response.status == HTTPStatus.CREATED:
            return str(response.body[0]["reservationId"])
        is_refusal = response.code in ("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS")
        event.requests["refused" if is_refusal else "other"] += 1
        return None

    async def _ask_for_more(self, event: Event, person: Person) -> None:
        """Ask for so many tickets that the person would have more than the limit."""
        body = {"quantity": MAX_TICKETS_PER_PERSON, "userFingerprint": person.fingerprint}
        response = await self._client.send("POST", f"/events/{event.id}/tickets", body)
        is_over = response.code == "LIMIT_REACHED"
        event.requests["over the limit" if is_over else "other"] += 1


def _count(event: Event, person: Person, response: Response, kind: str) -> None:
    """Count the response to a payment or a cancellation."""
    # An earlier try may have succeeded, although its response was lost.
    if response.status == HTTPStatus.OK or response.code == f"ALREADY_{kind.upper()}":
        event.confirmed_tickets[kind] += person.quantity
    elif response.code != "HOLD_EXPIRED":  # expected when the machine is slow
        event.requests["other"] += 1
