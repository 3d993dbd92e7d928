"""Ownership: who may use each route.

A new route fails these tests until it has an entry in ACCESS.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from service.web.routes import ROUTES
from tests.support.client import Client, code
from tests.support.database import Database, create_database
from tests.support.services import RunningService, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

TOKEN = "the-organizers-own-token"  # noqa: S105 - used by tests only
OWNER, STRANGER = "the-fingerprint-of-the-owner", "the-fingerprint-of-a-stranger"
NEW_OWNER = "the-fingerprint-of-the-new-owner"

# HIDES_OWNER: open to all, but only the owner sees the ticket's fingerprint.
ANYBODY, ORGANIZER, OWNER_ONLY, HIDES_OWNER = range(4)

ACCESS = {
    ("GET", "/events"): ANYBODY,
    ("POST", "/events"): ORGANIZER,
    ("GET", "/events/{eventId}"): ANYBODY,
    ("PATCH", "/events/{eventId}"): ORGANIZER,
    ("GET", "/events/{eventId}/tickets"): ORGANIZER,
    ("POST", "/events/{eventId}/tickets"): ANYBODY,
    ("GET", "/events/{eventId}/ledger"): ANYBODY,
    ("GET", "/events/{eventId}/audit"): ANYBODY,
    ("GET", "/events/{eventId}/stream"): ANYBODY,
    ("GET", "/events/tickets/{ticketId}"): HIDES_OWNER,
    ("POST", "/events/tickets/{ticketId}/payment"): OWNER_ONLY,
    ("DELETE", "/events/tickets/{ticketId}/payment"): OWNER_ONLY,
    ("POST", "/events/tickets/{ticketId}/transfer"): OWNER_ONLY,
    ("POST", "/events/tickets/{ticketId}/refund"): ORGANIZER,
    ("GET", "/events/{eventId}/waiting"): ORGANIZER,
    ("POST", "/events/{eventId}/waiting"): ANYBODY,
    ("GET", "/waiting/{entryId}"): OWNER_ONLY,
    ("DELETE", "/waiting/{entryId}"): OWNER_ONLY,
    ("GET", "/reservations/{reservationId}"): OWNER_ONLY,
    ("DELETE", "/reservations/{reservationId}"): OWNER_ONLY,
    ("POST", "/reservations/{reservationId}/payment"): OWNER_ONLY,
    ("POST", "/reservations/{reservationId}/extension"): OWNER_ONLY,
    ("POST", "/reservations/{reservationId}/refund"): ORGANIZER,
    # Lists the tickets of the fingerprint that is sent: a stranger has none.
    ("GET", "/tickets"): OWNER_ONLY,
    ("POST", "/fingerprints"): ANYBODY,
    ("GET", "/health"): ANYBODY,
    ("GET", "/health/live"): ANYBODY,
    ("GET", "/metrics"): ANYBODY,
    ("GET", "/"): ANYBODY,
    ("GET", "/openapi.json"): ANYBODY,
    ("GET", "/docs"): ANYBODY,
}
# Successes that a cache may store, as long as it asks the service before each use.
STORABLE = {
    ("GET", "/events"),
    ("GET", "/events/{eventId}"),
    ("GET", "/events/{eventId}/ledger"),
    ("GET", "/events/{eventId}/audit"),
    ("GET", "/events/tickets/{ticketId}"),
    ("GET", "/"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
}
ALL = [(method, path) for path, methods in ROUTES.items() for method in methods]
HEAD_PATHS = [path for method, path in ALL if method == "GET" and not ROUTES[path]["GET"].streams]

# Open to all, but only with a fingerprint, which the response shows to its owner.
BUYING = [("POST", "/events/{eventId}/tickets"), ("POST", "/events/{eventId}/waiting")]

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/events"): {"name": "New", "date": "2030-01-01T20:00:00Z", "totalTickets": 1},
    ("PATCH", "/events/{eventId}"): {"name": "Renamed"},
    ("POST", "/events/{eventId}/tickets"): {"quantity": 1},
    ("POST", "/events/tickets/{ticketId}/transfer"): {"newUserFingerprint": NEW_OWNER},
    ("POST", "/events/{eventId}/waiting"): {"quantity": 1},
}
TAKES_OWNER = ("/payment", "/extension", "/transfer", "/{eventId}/tickets", "/{eventId}/waiting")


@dataclass
class Sale:
    """An event with a reservation and a waiting entry of OWNER, which the requests are about."""

    client: Client
    database: Database
    event: str
    ticket: str
    reservation: str
    entry: str

    def state(self) -> list[str]:
        """Return all rows that a request could have changed."""
        return self.database.psql(
            "select events, tickets from events left join ticket_allocations as tickets "
            "on events.id = tickets.event_id order by events.id, tickets.id"
        )


@pytest.fixture(scope="module")
def shared(server: str, template: str) -> Iterator[tuple[RunningService, Database]]:
    """A service with an organizer token."""
    with create_database(server, template) as database:
        service = RunningService(database, settings_for_tests(organizer_token=TOKEN))
        service.start()
        yield service, database
        service.stop()
        database.check_books()


@pytest.fixture
def sale(shared: tuple[RunningService, Database], request: pytest.FixtureRequest) -> Iterator[Sale]:
    """A new event with a reservation of two tickets."""
    service, database = shared
    with Client(base_url=service.url, timeout=WAIT_SECONDS) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        event = client.create_event(name=request.node.name)
        tickets = client.reserve(event, quantity=2, user=OWNER).json()
        # Nobody is ahead, so this entry has an offer.
        entry = client.join_line(event, user=OWNER).json()["id"]
        del client.headers["Authorization"]
        # Else an extension would gain nothing.
        database.psql(
            "update ticket_allocations set expires_at = expires_at - interval '1 min' "
            f"where event_id = '{event}'"
        )
        yield Sale(client, database, event, tickets[0]["id"], tickets[0]["reservationId"], entry)


def send(
    sale: Sale, method: str, path: str, fingerprint: str | None = None, token: str | None = None
) -> httpx2.Response:
    """Send a valid request with a fingerprint, a token, both or neither."""
    id_ = sale.reservation if path.startswith("/reservations") else sale.ticket
    if path.startswith("/waiting"):
        id_ = sale.entry
    if path.startswith("/events/{eventId}"):
        id_ = sale.event
    if path.endswith("/refund"):
        sale.client.pay(sale.ticket, OWNER)
    headers = {"X-User-Fingerprint": fingerprint} if fingerprint else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = dict(BODIES.get((method, path), {}))
    if "name" in body:
        body["name"] += sale.event  # another one for each test
    if fingerprint and path.endswith(TAKES_OWNER):
        body["userFingerprint"] = fingerprint
    url = re.sub(r"{\w+}", id_, path)
    if method in ROUTES[path] and ROUTES[path][method].streams:  # it does not end: read its start
        with sale.client.stream(method, url, headers=headers) as response:
            start = "".join(line for line, _ in zip(response.iter_lines(), range(4), strict=False))
            return httpx2.Response(response.status_code, headers=response.headers, text=start)
    return sale.client.request(
        method, url, json=body if method in ("POST", "PATCH") else None, headers=headers
    )


def shows(response: httpx2.Response, fingerprint: str) -> bool:
    """Return whether a response contains a fingerprint."""
    return fingerprint in response.text or fingerprint in str(response.headers.multi_items())


def test_every_route_has_an_access_rule() -> None:
    assert set(ALL) == set(ACCESS)


@pytest.mark.parametrize(("method", "path"), ALL)
def test_the_owner_may_use_the_routes_of_the_owner(sale: Sale, method: str, path: str) -> None:
    response = send(sale, method, path, fingerprint=OWNER)
    if ACCESS[method, path] == ORGANIZER:
        assert code(response) == (401, "UNAUTHORIZED")
        return
    assert response.status_code in (200, 201), response.text
    if path.endswith("/transfer"):
        assert shows(response, NEW_OWNER)
        assert not shows(response, OWNER)
        return
    assert shows(response, OWNER) == (
        ACCESS[method, path] in (OWNER_ONLY, HIDES_OWNER) or (method, path) in BUYING
    )


@pytest.mark.parametrize(("method", "path"), ALL)
def test_a_stranger_changes_nothing_and_learns_nothing(sale: Sale, method: str, path: str) -> None:
    before = sale.state()
    response = send(sale, method, path, fingerprint=STRANGER)
    assert not shows(response, OWNER)
    if ACCESS[method, path] == ORGANIZER:
        assert code(response) == (401, "UNAUTHORIZED")
    elif path == "/tickets":
        assert sale.ticket not in response.text
    elif ACCESS[method, path] == OWNER_ONLY:
        assert code(response) == (403, "WRONG_FINGERPRINT")
    else:
        assert response.status_code in (200, 201), response.text
    if ACCESS[method, path] in (OWNER_ONLY, HIDES_OWNER):
        assert sale.state() == before


@pytest.mark.parametrize(("method", "path"), ALL)
def test_an_anonymous_client_changes_nothing_and_learns_nothing(
    sale: Sale, method: str, path: str
) -> None:
    before = sale.state()
    response = send(sale, method, path)
    assert not shows(response, OWNER)
    if ACCESS[method, path] == ORGANIZER:
        assert code(response) == (401, "UNAUTHORIZED")
    elif ACCESS[method, path] == OWNER_ONLY or (method, path) in BUYING:
        assert code(response) == (400, "BAD_REQUEST")
    else:
        assert response.status_code in (200, 201), response.text
    if ACCESS[method, path] != ORGANIZER:
        assert sale.state() == before


@pytest.mark.parametrize(("method", "path"), ALL)
def test_the_organizer_may_organize_but_owns_no_ticket(sale: Sale, method: str, path: str) -> None:
    response = send(sale, method, path, token=TOKEN)
    assert not shows(response, OWNER)
    if ACCESS[method, path] == OWNER_ONLY or (method, path) in BUYING:
        assert code(response) == (400, "BAD_REQUEST")
    else:
        assert response.status_code in (200, 201), response.text


@pytest.mark.parametrize(("method", "path"), ALL)
def test_an_organizer_with_a_fingerprint_sees_only_its_own_tickets(
    sale: Sale, method: str, path: str
) -> None:
    for fingerprint in (STRANGER, OWNER):
        response = send(sale, method, path, fingerprint=fingerprint, token=TOKEN)
        # The organizer's routes show no fingerprint, not even to its owner.
        assert not shows(response, OWNER) or (
            fingerprint == OWNER and ACCESS[method, path] != ORGANIZER
        )


@pytest.mark.parametrize("path", HEAD_PATHS)
def test_a_head_request_is_refused_like_its_get(sale: Sale, path: str) -> None:
    senders: list[dict[str, str]] = [{}, {"fingerprint": OWNER}, {"fingerprint": STRANGER}]
    for sender in senders:
        get, head = send(sale, "GET", path, **sender), send(sale, "HEAD", path, **sender)
        assert head.status_code == get.status_code
        assert head.text == ""


@pytest.mark.parametrize(("method", "path"), ALL)
def test_only_a_public_success_may_be_stored_by_caches(sale: Sale, method: str, path: str) -> None:
    response = send(sale, method, path, fingerprint=OWNER, token=TOKEN)
    assert response.status_code in (200, 201), response.text
    is_storable = (method, path) in STORABLE
    assert response.headers.get_list("Cache-Control") == ["no-cache" if is_storable else "no-store"]
    varies = is_storable and ACCESS[method, path] == HIDES_OWNER
    assert response.headers.get("Vary") == ("X-User-Fingerprint" if varies else None)
    if method == "GET" and not ROUTES[path][method].streams:
        head = send(sale, "HEAD", path, fingerprint=OWNER, token=TOKEN)
        for name in ("Cache-Control", "Vary"):
            assert head.headers.get(name) == response.headers.get(name)


@pytest.mark.parametrize(("method", "path"), ALL)
def test_no_refusal_may_be_stored_by_caches(sale: Sale, method: str, path: str) -> None:
    response = sale.client.request(method, re.sub(r"{\w+}", "unknown", path) + "?unknown=1")
    assert response.status_code in (400, 401, 415)
    assert response.headers.get_list("Cache-Control") == ["no-store"]


def test_a_storable_response_is_public() -> None:
    for method, path in STORABLE:
        assert method == "GET"
        assert ACCESS[method, path] in (ANYBODY, HIDES_OWNER)


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.upper()}",
        "Bearer \xff\xfe",
    ],
)
def test_a_wrong_token_is_refused(sale: Sale, authorization: str) -> None:
    before = sale.state()
    for method, path in [route for route, access in ACCESS.items() if access == ORGANIZER]:
        response = sale.client.request(
            method,
            re.sub(r"{\w+}", sale.event, path),
            json=BODIES.get((method, path)),
            headers={b"Authorization": authorization.encode("latin-1")},
        )
        assert code(response) == (401, "UNAUTHORIZED")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert sale.state() == before


def test_everybody_may_organize_without_a_token(client: Client) -> None:
    event = client.create_event()
    (ticket,) = client.hold(event)
    assert client.update_event(event, totalTickets=11).status_code == 200
    assert client.list_event_tickets(event).status_code == 200
    client.pay(ticket)
    assert client.refund(ticket).status_code == 200


def test_a_created_fingerprint_has_256_bits_and_is_accepted(client: Client) -> None:
    responses = [client.post("/fingerprints") for _ in range(100)]
    assert {response.status_code for response in responses} == {201}
    fingerprints = {response.json()["userFingerprint"] for response in responses}
    assert len(fingerprints) == 100
    # 43 characters of six bits each, none that a URL would escape.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", fingerprint) for fingerprint in fingerprints)
    user = fingerprints.pop()
    (ticket,) = client.hold(client.create_event(), user=user)
    assert client.pay(ticket, user=user).status_code == 200
