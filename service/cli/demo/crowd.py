"""The demo's crowd: people who want tickets, over HTTP, and behave as people do.

Some pay, some give back, some never come back, some send everything twice. What each of them
wants and does is drawn from a number of their own, so that every run has the same people.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count

from service.cli.demo.client import Answer, Client

ASKING = 12
"""People who ask for tickets of one show at once. On a slow machine the others come later, and
those who want to pay do not wait behind them until their holds are over."""
RATE_LOOKS = 5
"""Tickets a second are counted between the first and the last of so many looks."""

MANNERS = {"pays": 55, "repeats": 10, "cancels": 12, "lapses": 23}
"""What people do with their tickets, and how many of a hundred."""


@dataclass
class Show:
    """An event: what the service last told of it, and what its crowd was told."""

    name: str
    total: int
    people_a_second: float
    event_id: str = ""
    available: int = 0
    reserved: int = 0
    purchased: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """Tickets that were reserved, purchased and cancelled; requests that were refused, repeated
    or answered by what should not have been."""
    looks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_LOOKS))
    """When we looked, and how many tickets had been reserved."""

    @property
    def sold_out(self) -> bool:
        """Whether every ticket is paid for."""
        return self.purchased == self.total

    @property
    def rate(self) -> float:
        """Tickets reserved in a second, just now."""
        if len(self.looks) < 2:
            return 0.0
        (begun, before), (ended, after) = self.looks[0], self.looks[-1]
        return (after - before) / (ended - begun)

    async def create(self, client: Client) -> None:
        """Make the event."""
        body = {"name": self.name, "date": "2030-01-01T20:00:00Z", "totalTickets": self.total}
        self.event_id = (await client.ask("POST", "/events", body))["id"]

    async def look(self, client: Client) -> None:
        """Ask the service how the event stands."""
        event = await client.ask("GET", f"/events/{self.event_id}")
        self.available = event["availableTickets"]
        self.reserved = event["reservedTickets"]
        self.purchased = event["purchasedTickets"]
        self.looks.append((asyncio.get_running_loop().time(), self.told["reserved"]))

    async def moved(self, client: Client) -> Counter[str]:
        """Return how many tickets were moved, of each kind, as the event's ledger has it."""
        moved: Counter[str] = Counter()
        after: int | None = 0
        while after is not None:
            path = f"/events/{self.event_id}/ledger?after={after}&limit=1000"
            page = await client.ask("GET", path)
            for entry in page["data"]:
                for kind in ("reserved", "purchased", "cancelled", "expired"):
                    moved[kind] += entry[kind]
            after = page["meta"]["next"]
        return moved


@dataclass(frozen=True)
class Person:
    """One of the crowd."""

    fingerprint: str
    quantity: int
    does: str
    """One of MANNERS."""
    thinks_seconds: float
    """Between the reservation and whatever follows; shorter than a hold."""


def person(show: str, number: int, hold_seconds: int) -> Person:
    """Return the person of this number, who is the same in every run."""
    chance = random.Random(f"{show} {number}")  # noqa: S311 -- for variety, not for secrets
    return Person(
        fingerprint=f"{show.replace(' ', '-')}-{number}",
        quantity=chance.choice((1, 1, 2)),
        does=chance.choices(list(MANNERS), list(MANNERS.values()))[0],
        thinks_seconds=chance.uniform(0.1, 0.6) * hold_seconds,
    )


class Crowd:
    """All who come, to all shows, until everything is sold."""

    def __init__(
        self, client: Client, shows: Sequence[Show], seconds: float, hold_seconds: int
    ) -> None:
        self._client = client
        self._shows = shows
        self._hold_seconds = hold_seconds
        # Who comes later pays, or the last hold would lapse with nobody there to buy it.
        self._everybody_pays_after = seconds * 0.7
        self._gives_up_after = seconds * 3 + 30

    async def come(self) -> None:
        """Come to all shows; return when all are sold and everybody has gone home."""
        async with asyncio.TaskGroup() as group:
            for show in self._shows:
                group.create_task(self._come_to(show, group))

    async def _come_to(self, show: Show, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        room = asyncio.Semaphore(ASKING)
        for number in count():
            await asyncio.sleep(begun + number / show.people_a_second - loop.time())
            passed = loop.time() - begun
            if show.sold_out or passed > self._gives_up_after:
                return
            who = person(show.name, number, self._hold_seconds)
            await room.acquire()
            pays = passed > self._everybody_pays_after
            group.create_task(self._visit(show, who, room, pays=pays))

    async def _visit(self, show: Show, who: Person, room: asyncio.Semaphore, *, pays: bool) -> None:
        """Want tickets, and do with them what one does."""
        try:
            reservation_id = await self._reserve(show, who)
        finally:
            room.release()
        if reservation_id is None:
            return
        show.told["reserved"] += who.quantity
        if who.does == "repeats":
            again = await self._reserve(show, who)
            show.told["repeated" if again == reservation_id else "other"] += 1
        await asyncio.sleep(who.thinks_seconds)
        path = f"/reservations/{reservation_id}"
        if pays or who.does in ("pays", "repeats"):
            mine = {"userFingerprint": who.fingerprint}
            answer = await self._client.send("POST", f"{path}/payment", mine)
            _count(show, who, answer, "purchased")
        elif who.does == "cancels":
            owner = {"X-User-Fingerprint": who.fingerprint}
            answer = await self._client.send("DELETE", path, headers=owner)
            _count(show, who, answer, "cancelled")

    async def _reserve(self, show: Show, who: Person) -> str | None:
        """Return the reservation's id; None when there was none to be had."""
        answer = await self._client.send(
            "POST",
            f"/events/{show.event_id}/tickets",
            {"quantity": who.quantity, "userFingerprint": who.fingerprint},
            {"Idempotency-Key": f"of-{who.fingerprint}"},
        )
        if answer.status == HTTPStatus.CREATED:
            return str(answer.body[0]["reservationId"])
        is_refusal = answer.code in ("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS")
        show.told["refused" if is_refusal else "other"] += 1
        return None


def _count(show: Show, who: Person, answer: Answer, what: str) -> None:
    """Take down what somebody was told who had tickets."""
    # A try before this one may have done it, and its answer was lost.
    if answer.status == HTTPStatus.OK or answer.code == f"ALREADY_{what.upper()}":
        show.told[what] += who.quantity
    elif answer.code != "HOLD_EXPIRED":  # the machine was slow, and the hold over
        show.told["other"] += 1
