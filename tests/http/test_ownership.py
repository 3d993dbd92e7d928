"""Ownership: who may do what, for every route that there is.

A new route is in no row of MAY, and fails until somebody has thought about where it belongs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from service.web.routes import ROUTES
from tests.support.client import Client, code
from tests.support.database import Database, created
from tests.support.services import RunningService, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

TOKEN = "the-organizers-own-token"  # noqa: S105 - of these tests alone
OWNER, STRANGER = "the-fingerprint-of-the-owner", "the-fingerprint-of-a-stranger"

ANYBODY, ORGANIZER, OWN, HIDES_THE_OWNER = range(4)
"""Open to all; for the organiser; for the owner of the ticket; open to all, but only its owner
is shown whose it is."""

MAY = {
    ("GET", "/events"): ANYBODY,
    ("POST", "/events"): ORGANIZER,
    ("GET", "/events/{id}"): ANYBODY,
    ("PATCH", "/events/{id}"): ORGANIZER,
    ("GET", "/events/{id}/tickets"): ORGANIZER,
    ("POST", "/events/{id}/tickets"): ANYBODY,
    ("GET", "/events/{id}/ledger"): ANYBODY,
    ("GET", "/events/{id}/audit"): ANYBODY,
    ("GET", "/events/{id}/stream"): ANYBODY,
    ("GET", "/events/tickets/{id}"): HIDES_THE_OWNER,
    ("POST", "/events/tickets/{id}/payment"): OWN,
    ("DELETE", "/events/tickets/{id}/payment"): OWN,
    ("POST", "/events/tickets/{id}/refund"): ORGANIZER,
    ("GET", "/reservations/{id}"): OWN,
    ("DELETE", "/reservations/{id}"): OWN,
    ("POST", "/reservations/{id}/payment"): OWN,
    # Everybody's own: a stranger has none.
    ("GET", "/tickets"): OWN,
    ("POST", "/fingerprints"): ANYBODY,
    ("GET", "/health"): ANYBODY,
    ("GET", "/health/live"): ANYBODY,
    ("GET", "/metrics"): ANYBODY,
    ("GET", "/"): ANYBODY,
    ("GET", "/openapi.json"): ANYBODY,
    ("GET", "/docs"): ANYBODY,
}
ALL = [(method, path) for path, methods in ROUTES.items() for method in methods]
HEADS = [path for method, path in ALL if method == "GET" and not ROUTES[path]["GET"].streams]

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/events"): {"name": "New", "date": "2030-01-01T20:00:00Z", "totalTickets": 1},
    ("PATCH", "/events/{id}"): {"name": "Renamed"},
    ("POST", "/events/{id}/tickets"): {"quantity": 1},
}


@dataclass
class Sale:
    """What the requests are about: an event with a reservation of its owner."""

    client: Client
    database: Database
    event: str
    ticket: str
    reservation: str

    def state(self) -> list[str]:
        """Return all that a request could have changed."""
        return self.database.psql(
            "select events, tickets from events left join ticket_allocations as tickets "
            "on events.id = tickets.event_id order by events.id, tickets.id"
        )


@pytest.fixture(scope="module")
def shared(server: str, template: str) -> Iterator[tuple[RunningService, Database]]:
    """A service with an organiser's token."""
    with created(server, template) as database:
        service = RunningService(database, settings_for_tests(organizer_token=TOKEN))
        service.start()
        yield service, database
        service.stop()
        database.adds_up()


@pytest.fixture
def sale(shared: tuple[RunningService, Database], request: pytest.FixtureRequest) -> Iterator[Sale]:
    """An event of the test's own, with a reservation of two tickets."""
    service, database = shared
    with Client(base_url=service.url, timeout=WAIT_SECONDS) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        event = client.create_event(name=request.node.name)
        tickets = client.reserve(event, quantity=2, user=OWNER).json()
        del client.headers["Authorization"]
        yield Sale(client, database, event, tickets[0]["id"], tickets[0]["reservationId"])


def ask(
    sale: Sale, method: str, path: str, fingerprint: str | None = None, token: str | None = None
) -> httpx2.Response:
    """Send a good request as somebody: with a fingerprint, or a token, or neither."""
    id_ = sale.reservation if path.startswith("/reservations") else sale.ticket
    if path.startswith("/events/{id}"):
        id_ = sale.event
    if (method, path) == ("POST", "/events/tickets/{id}/refund"):
        sale.client.pay(sale.ticket, OWNER)
    headers = {"X-User-Fingerprint": fingerprint} if fingerprint else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = dict(BODIES.get((method, path), {}))
    if fingerprint and (path.endswith("/payment") or path == "/events/{id}/tickets"):
        body["userFingerprint"] = fingerprint
    url = path.replace("{id}", id_)
    if (
        method in ROUTES[path] and ROUTES[path][method].streams
    ):  # it has no end: what it begins with has to do
        with sale.client.stream(method, url, headers=headers) as answer:
            begun = "".join(line for line, _ in zip(answer.iter_lines(), range(4), strict=False))
            return httpx2.Response(answer.status_code, headers=answer.headers, text=begun)
    return sale.client.request(
        method, url, json=body if method in ("POST", "PATCH") else None, headers=headers
    )


def shows(answer: httpx2.Response, fingerprint: str) -> bool:
    """Whether a fingerprint is anywhere in an answer."""
    return fingerprint in answer.text or fingerprint in str(answer.headers.multi_items())


def test_every_route_has_its_place() -> None:
    assert set(ALL) == set(MAY)


@pytest.mark.parametrize(("method", "path"), ALL)
def test_the_owner_may_do_what_is_the_owners(sale: Sale, method: str, path: str) -> None:
    answer = ask(sale, method, path, fingerprint=OWNER)
    if MAY[method, path] == ORGANIZER:
        assert code(answer) == (401, "UNAUTHORIZED")
        return
    assert answer.status_code in (200, 201), answer.text
    assert shows(answer, OWNER) == (
        MAY[method, path] in (OWN, HIDES_THE_OWNER) or path == "/events/{id}/tickets"
    )


@pytest.mark.parametrize(("method", "path"), ALL)
def test_a_stranger_does_nothing_to_it_and_learns_nothing(
    sale: Sale, method: str, path: str
) -> None:
    before = sale.state()
    answer = ask(sale, method, path, fingerprint=STRANGER)
    assert not shows(answer, OWNER)
    if MAY[method, path] == ORGANIZER:
        assert code(answer) == (401, "UNAUTHORIZED")
    elif path == "/tickets":
        assert sale.ticket not in answer.text
    elif MAY[method, path] == OWN:
        assert code(answer) == (403, "WRONG_FINGERPRINT")
    else:
        assert answer.status_code in (200, 201), answer.text
    if MAY[method, path] in (OWN, HIDES_THE_OWNER):
        assert sale.state() == before


@pytest.mark.parametrize(("method", "path"), ALL)
def test_nobody_in_particular_does_nothing_to_it_and_learns_nothing(
    sale: Sale, method: str, path: str
) -> None:
    before = sale.state()
    answer = ask(sale, method, path)
    assert not shows(answer, OWNER)
    if MAY[method, path] == ORGANIZER:
        assert code(answer) == (401, "UNAUTHORIZED")
    elif MAY[method, path] == OWN or path == "/events/{id}/tickets":
        assert code(answer) == (400, "BAD_REQUEST")
    else:
        assert answer.status_code in (200, 201), answer.text
    if MAY[method, path] != ORGANIZER:
        assert sale.state() == before


@pytest.mark.parametrize(("method", "path"), ALL)
def test_the_organizer_may_organize_and_owns_no_ticket(sale: Sale, method: str, path: str) -> None:
    answer = ask(sale, method, path, token=TOKEN)
    assert not shows(answer, OWNER)
    if MAY[method, path] == OWN or (method, path) == ("POST", "/events/{id}/tickets"):
        assert code(answer) == (400, "BAD_REQUEST")
    else:
        assert answer.status_code in (200, 201), answer.text


@pytest.mark.parametrize(("method", "path"), ALL)
def test_the_organizer_with_a_fingerprint_sees_its_own_alone(
    sale: Sale, method: str, path: str
) -> None:
    for fingerprint in (STRANGER, OWNER):
        answer = ask(sale, method, path, fingerprint=fingerprint, token=TOKEN)
        # What the owner may see elsewhere is not shown in what is the organiser's.
        assert not shows(answer, OWNER) or (fingerprint == OWNER and MAY[method, path] != ORGANIZER)


@pytest.mark.parametrize("path", HEADS)
def test_a_head_is_refused_as_its_get_is(sale: Sale, path: str) -> None:
    askers: list[dict[str, str]] = [{}, {"fingerprint": OWNER}, {"fingerprint": STRANGER}]
    for asker in askers:
        got, head = ask(sale, "GET", path, **asker), ask(sale, "HEAD", path, **asker)
        assert head.status_code == got.status_code
        assert head.text == ""


@pytest.mark.parametrize(("method", "path"), ALL)
def test_what_is_for_one_alone_is_kept_by_no_cache(sale: Sale, method: str, path: str) -> None:
    answer = ask(sale, method, path, fingerprint=OWNER, token=TOKEN)
    is_open = MAY[method, path] == ANYBODY
    if method == "GET" and not ROUTES[path][method].streams:
        assert answer.headers.get("Cache-Control") == (None if is_open else "no-store")


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
def test_what_is_not_the_token_organizes_nothing(sale: Sale, authorization: str) -> None:
    before = sale.state()
    for method, path in [route for route, may in MAY.items() if may == ORGANIZER]:
        answer = sale.client.request(
            method,
            path.replace("{id}", sale.event),
            json=BODIES.get((method, path)),
            headers={b"Authorization": authorization.encode("latin-1")},
        )
        assert code(answer) == (401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert sale.state() == before


def test_without_a_token_everybody_may_organize(client: Client) -> None:
    event = client.create_event()
    (ticket,) = client.hold(event)
    assert client.update_event(event, totalTickets=11).status_code == 200
    assert client.event_tickets(event).status_code == 200
    client.pay(ticket)
    assert client.refund(ticket).status_code == 200


def test_a_fingerprint_that_we_make_has_256_bits_and_is_accepted(client: Client) -> None:
    made = [client.post("/fingerprints") for _ in range(100)]
    assert {answer.status_code for answer in made} == {201}
    fingerprints = {answer.json()["userFingerprint"] for answer in made}
    assert len(fingerprints) == 100
    # Six bits a character: 43 of them, none that a URL would escape.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in fingerprints)
    used = fingerprints.pop()
    (ticket,) = client.hold(client.create_event(), user=used)
    assert client.pay(ticket, user=used).status_code == 200
