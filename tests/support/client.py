"""A client with a method for each operation of the API, and a crowd of clients."""

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2

from tests.support.run_log import RUN_LOG

# Every kind of response in this test run: method, path with ``{id}`` for ids, status, code.
SEEN_RESPONSES: set[tuple[str, str, int, str]] = set()

_ANY_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Client(httpx2.Client):
    """A client of the service, with a method for each operation, so that tests need no URLs."""

    # The service, if it runs in a process of its own.
    process: subprocess.Popen[str] | None = None

    def request(self, *arguments: Any, **options: Any) -> httpx2.Response:
        """Send a request; record its fingerprint and the kind of response."""
        body, headers = options.get("json"), options.get("headers")
        for values, name in ((body, "userFingerprint"), (headers, "X-User-Fingerprint")):
            if isinstance(values, dict) and isinstance(values.get(name), str):
                RUN_LOG.fingerprints.add(values[name])
        response = super().request(*arguments, **options)
        # Without this header uvicorn has refused the request before the service saw it.
        if "X-Request-Id" in response.headers:
            path, method = _ANY_ID.sub("{id}", response.request.url.path), response.request.method
            is_refusal = response.status_code >= 400 and response.content
            code = response.json().get("code", "") if is_refusal else ""
            SEEN_RESPONSES.add((method, path, response.status_code, code))
        return response

    def create_event(self, tickets: int = 10, name: str = "Opening night", **fields: Any) -> str:
        """Create an event and return its id."""
        body = {"name": name, "date": "2030-01-01T20:00:00Z", "totalTickets": tickets, **fields}
        response = self.post("/events", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def find_event(self, event_id: str) -> dict[str, Any]:
        """Return an event."""
        response = self.get(f"/events/{event_id}")
        assert response.status_code == 200, response.text
        event: dict[str, Any] = response.json()
        return event

    def update_event(self, event_id: str, **changes: Any) -> httpx2.Response:
        """Update an event."""
        return self.patch(f"/events/{event_id}", json=changes)

    def reserve(
        self, event_id: str, quantity: int = 1, user: str = "alice", key: str | None = None
    ) -> httpx2.Response:
        """Reserve tickets."""
        return self.post(
            f"/events/{event_id}/tickets",
            json={"quantity": quantity, "userFingerprint": user},
            headers={"Idempotency-Key": key} if key else {},
        )

    def hold(self, event_id: str, quantity: int = 1, user: str = "alice") -> list[str]:
        """Reserve tickets, which must succeed, and return their ids."""
        response = self.reserve(event_id, quantity, user)
        assert response.status_code == 201, response.text
        return [ticket["id"] for ticket in response.json()]

    def find_ticket(self, ticket_id: str, user: str | None = None) -> httpx2.Response:
        """Find a ticket."""
        headers = {"X-User-Fingerprint": user} if user else {}
        return self.get(f"/events/tickets/{ticket_id}", headers=headers)

    def pay(self, ticket_id: str, user: str = "alice", **body: Any) -> httpx2.Response:
        """Pay for a ticket."""
        body = {"userFingerprint": user, **body}
        return self.post(f"/events/tickets/{ticket_id}/payment", json=body)

    def pay_late(self, ticket_id: str, user: str = "alice") -> httpx2.Response:
        """Pay for a ticket, also if its hold has expired."""
        return self.pay(ticket_id, user, ifExpired="reacquire")

    def transfer(self, ticket_id: str, new_user: str, user: str = "alice") -> httpx2.Response:
        """Give a ticket to a new owner."""
        body = {"userFingerprint": user, "newUserFingerprint": new_user}
        return self.post(f"/events/tickets/{ticket_id}/transfer", json=body)

    def cancel(self, ticket_id: str, user: str = "alice") -> httpx2.Response:
        """Cancel the hold of a ticket."""
        headers = {"X-User-Fingerprint": user}
        return self.delete(f"/events/tickets/{ticket_id}/payment", headers=headers)

    def refund(self, ticket_id: str, **body: Any) -> httpx2.Response:
        """Refund a purchased ticket."""
        return self.post(f"/events/tickets/{ticket_id}/refund", json=body or None)

    def refund_reservation(self, reservation_id: str, **body: Any) -> httpx2.Response:
        """Refund the purchased tickets of a reservation."""
        return self.post(f"/reservations/{reservation_id}/refund", json=body or None)

    def find_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Find a reservation."""
        headers = {"X-User-Fingerprint": user}
        return self.get(f"/reservations/{reservation_id}", headers=headers)

    def pay_reservation(
        self, reservation_id: str, user: str = "alice", **body: Any
    ) -> httpx2.Response:
        """Pay for a whole reservation."""
        body = {"userFingerprint": user, **body}
        return self.post(f"/reservations/{reservation_id}/payment", json=body)

    def pay_late_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Pay for a whole reservation, also if its holds have expired."""
        return self.pay_reservation(reservation_id, user, ifExpired="reacquire")

    def extend_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Extend the holds of a reservation."""
        return self.post(
            f"/reservations/{reservation_id}/extension", json={"userFingerprint": user}
        )

    def cancel_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Cancel a whole reservation."""
        headers = {"X-User-Fingerprint": user}
        return self.delete(f"/reservations/{reservation_id}", headers=headers)

    def join_line(self, event_id: str, quantity: int = 1, user: str = "alice") -> httpx2.Response:
        """Join the waiting list of an event."""
        body = {"quantity": quantity, "userFingerprint": user}
        return self.post(f"/events/{event_id}/waiting", json=body)

    def find_entry(self, entry_id: str, user: str = "alice") -> httpx2.Response:
        """Find an entry of a waiting list."""
        return self.get(f"/waiting/{entry_id}", headers={"X-User-Fingerprint": user})

    def leave_line(self, entry_id: str, user: str = "alice") -> httpx2.Response:
        """Leave a waiting list."""
        return self.delete(f"/waiting/{entry_id}", headers={"X-User-Fingerprint": user})

    def list_line(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's waiting list."""
        return self.get(f"/events/{event_id}/waiting", params=query)

    def list_ledger(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's ledger."""
        return self.get(f"/events/{event_id}/ledger", params=query)

    def check_event(self, event_id: str) -> httpx2.Response:
        """Audit an event."""
        return self.get(f"/events/{event_id}/audit")

    def list_user_tickets(self, user: str = "alice", **query: Any) -> httpx2.Response:
        """List a user's tickets."""
        return self.get("/tickets", headers={"X-User-Fingerprint": user}, params=query)

    def list_event_tickets(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's tickets."""
        return self.get(f"/events/{event_id}/tickets", params=query)


def is_live(client: Client) -> bool:
    """Whether the service responds to its liveness check."""
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def send_crowd(
    urls: Sequence[str], event_id: str, people: int, connections: int, quantity: int = 1
) -> Counter[tuple[int, str]]:
    """Send a crowd that reserves tickets of one event, and count the responses.

    Args:
        urls: of the services; the requests are dealt out to them in turn.
        event_id: the event.
        people: how many requests to send, each with its own fingerprint.
        connections: how many to send at the same time.
        quantity: how many tickets each request reserves.

    Returns:
        The number of responses by status and code; the code of a success is ''.
    """

    async def send() -> Counter[tuple[int, str]]:
        responses: Counter[tuple[int, str]] = Counter()
        limits = httpx2.Limits(max_connections=connections)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:

            async def person(number: int) -> None:
                response = await client.post(
                    f"{urls[number % len(urls)]}/events/{event_id}/tickets",
                    json={"quantity": quantity, "userFingerprint": f"person-{number}"},
                )
                body = response.json()
                code = body["code"] if isinstance(body, dict) else ""
                responses[response.status_code, code] += 1

            await asyncio.gather(*(person(number) for number in range(people)))
        return responses

    return asyncio.run(send())


def code(response: httpx2.Response) -> tuple[int, str]:
    """Return the status and the code of a refusal."""
    return response.status_code, response.json()["code"]


def is_replay(first: httpx2.Response, again: httpx2.Response) -> bool:
    """Whether the second response replays the first: the same tickets in the same order."""
    return (again.status_code, again.headers.get("Idempotency-Replayed")) == (201, "true") and [
        ticket["id"] for ticket in again.json()
    ] == [ticket["id"] for ticket in first.json()]
