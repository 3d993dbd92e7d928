"""Clients: one that speaks the domain's verbs, and a crowd of them."""

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2

from tests.support.run_log import RUN_LOG

SEEN_RESPONSES: set[tuple[str, str, int, str]] = set()
"""What the clients of a test run were answered: method, path, status, code; ids as ``{id}``."""

_ANY_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Client(httpx2.Client):
    """A client of the service that speaks its verbs, so that no test has a URL."""

    process: subprocess.Popen[str] | None = None
    """The service, where it is a process of its own."""

    def request(self, *arguments: Any, **options: Any) -> httpx2.Response:
        """Send a request, and remember the fingerprint in it and what was answered."""
        body, headers = options.get("json"), options.get("headers")
        for given, name in ((body, "userFingerprint"), (headers, "X-User-Fingerprint")):
            if isinstance(given, dict) and isinstance(given.get(name), str):
                RUN_LOG.fingerprints.add(given[name])
        answer = super().request(*arguments, **options)
        # Without it the HTTP server has refused, before there was a request.
        if "X-Request-Id" in answer.headers:
            path, method = _ANY_ID.sub("{id}", answer.request.url.path), answer.request.method
            is_refusal = answer.status_code >= 400 and answer.content
            told = answer.json().get("code", "") if is_refusal else ""
            SEEN_RESPONSES.add((method, path, answer.status_code, told))
        return answer

    def create_event(self, tickets: int = 10, name: str = "Opening night", **fields: Any) -> str:
        """Make an event and return its id."""
        body = {"name": name, "date": "2030-01-01T20:00:00Z", "totalTickets": tickets, **fields}
        answer = self.post("/events", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def find_event(self, event_id: str) -> dict[str, Any]:
        """Return an event as it is shown."""
        answer = self.get(f"/events/{event_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def update_event(self, event_id: str, **changes: Any) -> httpx2.Response:
        """Update an event."""
        return self.patch(f"/events/{event_id}", json=changes)

    def reserve(
        self, event_id: str, quantity: int = 1, user: str = "alice", key: str | None = None
    ) -> httpx2.Response:
        """Ask for tickets."""
        return self.post(
            f"/events/{event_id}/tickets",
            json={"quantity": quantity, "userFingerprint": user},
            headers={"Idempotency-Key": key} if key else {},
        )

    def hold(self, event_id: str, quantity: int = 1, user: str = "alice") -> list[str]:
        """Reserve tickets and return their ids."""
        answer = self.reserve(event_id, quantity, user)
        assert answer.status_code == 201, answer.text
        return [ticket["id"] for ticket in answer.json()]

    def find_ticket(self, ticket_id: str, user: str | None = None) -> httpx2.Response:
        """Look at a ticket."""
        headers = {"X-User-Fingerprint": user} if user else {}
        return self.get(f"/events/tickets/{ticket_id}", headers=headers)

    def pay(self, ticket_id: str, user: str = "alice") -> httpx2.Response:
        """Pay for a ticket."""
        return self.post(f"/events/tickets/{ticket_id}/payment", json={"userFingerprint": user})

    def cancel(self, ticket_id: str, user: str = "alice") -> httpx2.Response:
        """Give a ticket back."""
        headers = {"X-User-Fingerprint": user}
        return self.delete(f"/events/tickets/{ticket_id}/payment", headers=headers)

    def refund(self, ticket_id: str) -> httpx2.Response:
        """Take a purchase back."""
        return self.post(f"/events/tickets/{ticket_id}/refund")

    def find_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Look at a reservation."""
        headers = {"X-User-Fingerprint": user}
        return self.get(f"/reservations/{reservation_id}", headers=headers)

    def pay_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Pay for a whole reservation."""
        return self.post(f"/reservations/{reservation_id}/payment", json={"userFingerprint": user})

    def cancel_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Give a whole reservation back."""
        headers = {"X-User-Fingerprint": user}
        return self.delete(f"/reservations/{reservation_id}", headers=headers)

    def list_ledger(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's ledger."""
        return self.get(f"/events/{event_id}/ledger", params=query)

    def check_event(self, event_id: str) -> httpx2.Response:
        """Have an event's books checked."""
        return self.get(f"/events/{event_id}/audit")

    def list_user_tickets(self, user: str = "alice", **query: Any) -> httpx2.Response:
        """List somebody's own tickets."""
        return self.get("/tickets", headers={"X-User-Fingerprint": user}, params=query)

    def list_event_tickets(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's tickets."""
        return self.get(f"/events/{event_id}/tickets", params=query)


def is_live(client: Client) -> bool:
    """Whether the service answers."""
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def send_crowd(
    urls: Sequence[str], event_id: str, people: int, connections: int, quantity: int = 1
) -> Counter[tuple[int, str]]:
    """Send a crowd that wants tickets of one event; return how often each answer came.

    Args:
        urls: the services, which the crowd takes in turn.
        event_id: the event.
        people: how many requests, each with a fingerprint of its own.
        connections: how many at once.
        quantity: how many tickets each wants.

    Returns:
        By status and code; the code of a success is ''.
    """

    async def send() -> Counter[tuple[int, str]]:
        answers: Counter[tuple[int, str]] = Counter()
        limits = httpx2.Limits(max_connections=connections)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:

            async def person(number: int) -> None:
                answer = await client.post(
                    f"{urls[number % len(urls)]}/events/{event_id}/tickets",
                    json={"quantity": quantity, "userFingerprint": f"person-{number}"},
                )
                told = answer.json()
                code = told["code"] if isinstance(told, dict) else ""
                answers[answer.status_code, code] += 1

            await asyncio.gather(*(person(number) for number in range(people)))
        return answers

    return asyncio.run(send())


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Return a refusal's status and code."""
    return answer.status_code, answer.json()["code"]


def is_replay(first: httpx2.Response, again: httpx2.Response) -> bool:
    """Whether an answer is the repeat of another: the same tickets in the same order."""
    return (again.status_code, again.headers.get("Idempotency-Replayed")) == (201, "true") and [
        ticket["id"] for ticket in again.json()
    ] == [ticket["id"] for ticket in first.json()]
