"""Bad input is refused in one format that names every bad field, and writes nothing."""

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.client import Client, code
from tests.support.database import Database, create_database
from tests.support.services import RunningService, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

NUMBERS = itertools.count(1)

JSON = {"Content-Type": "application/json"}
GOOD = {"name": "Gig", "date": "2030-06-01T20:00:00Z", "totalTickets": 5}


def bad_fields(client: Client, method: str, url: str, content: bytes | str) -> set[str]:
    """Send a body that must be refused, and return the names of the fields in the refusal."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    response = client.request(method, url, content=content, headers=JSON)
    assert code(response) == (400, "BAD_REQUEST"), response.text
    details = response.json()["details"]
    assert all(set(detail) == {"field", "message"} for detail in details)
    return {detail["field"] for detail in details}


class NumberedClient(Client):
    """A client that gives every event a unique name, since the tests share a database."""

    def create_event(self, tickets: int = 10, name: str = "Event", **fields: Any) -> str:
        """Create an event and return its id."""
        return super().create_event(tickets, f"{name} {next(NUMBERS)}", **fields)


@pytest.fixture(scope="module")
def shared(server: str, template: str) -> Iterator[Database]:
    """One database for all tests of this module: none of them sells a ticket."""
    with create_database(server, template) as database:
        yield database
        database.check_books()


@pytest.fixture(scope="module")
def client(shared: Database) -> Iterator[Client]:
    """A client of one service for all tests of this module."""
    service = RunningService(shared, settings_for_tests())
    service.start()
    with NumberedClient(base_url=service.url, timeout=WAIT_SECONDS) as client:
        yield client
    service.stop()


@pytest.fixture(autouse=True)
def nothing_is_written(client: Client, shared: Database) -> Iterator[None]:
    """Check after each test that it wrote nothing but the events created on purpose."""
    yield
    assert shared.psql("select count(*) from ticket_allocations") == ["0"]
    changed = "select name, version from events where name !~ '^Event \\d+$' or version > 1"
    assert shared.psql(changed) == []


def test_every_bad_field_is_named_at_once(client: Client) -> None:
    body = '{"name": " ", "date": "tomorrow", "totalTickets": 0, "price": 3}'
    assert bad_fields(client, "POST", "/events", body) == {"name", "date", "totalTickets", "price"}
    assert bad_fields(client, "POST", "/events", "{}") == {"name", "date", "totalTickets"}
    event = client.create_event()
    tickets = f"/events/{event}/tickets"
    assert bad_fields(client, "POST", tickets, "{}") == {"quantity", "userFingerprint"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"name": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"name": NaN}',
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"totalTickets": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_a_json_object_is_refused(client: Client, body: bytes) -> None:
    response = client.post("/events", content=body, headers=JSON)
    assert code(response) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "name",
    [
        '""',
        '" "',
        '"\\u00a0\\t"',
        '"a\\u0000b"',
        '"\\ud800"',
        '"\\udfff"',
        "7",
        "null",
        "[]",
        "true",
        '"' + "x" * 256 + '"',
    ],
)
def test_a_bad_name_is_refused(client: Client, name: str) -> None:
    body = f'{{"name": {name}, "date": "2030-06-01T20:00:00Z", "totalTickets": 5}}'
    assert bad_fields(client, "POST", "/events", body) == {"name"}


@pytest.mark.parametrize(
    "number",
    ["0", "-1", "2147483648", "9223372036854775808", "1e400", "1.5", '"5"', "true", "null", "[5]"],
)
def test_a_bad_number_is_refused(client: Client, number: str) -> None:
    body = f'{{"name": "Gig", "date": "2030-06-01T20:00:00Z", "totalTickets": {number}}}'
    assert bad_fields(client, "POST", "/events", body) == {"totalTickets"}
    event = client.create_event()
    body = f'{{"userFingerprint": "alice", "quantity": {number}}}'
    assert bad_fields(client, "POST", f"/events/{event}/tickets", body) == {"quantity"}


def test_a_quantity_over_the_limit_is_refused(client: Client) -> None:
    event = client.create_event(tickets=100)
    body = '{"userFingerprint": "alice", "quantity": 11}'
    assert bad_fields(client, "POST", f"/events/{event}/tickets", body) == {"quantity"}


@pytest.mark.parametrize(
    "date",
    [
        "2030-06-01T20:00:00+00:60",
        "2030-06-01T20:00:00",
        "2030-06-01",
        "2030-06-01T20:00:60Z",
        "2030-02-30T20:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2030-06-01T20:00:00+25:00",
        "２０３０-06-01T20:00:00Z",
        "infinity",
        "now",
        "",
        "2030-06-01T20:00:00Z\n",
    ],
)
def test_a_bad_date_is_refused(client: Client, date: str) -> None:
    response = client.post("/events", json={**GOOD, "date": date})
    assert code(response) == (400, "BAD_REQUEST")
    assert [detail["field"] for detail in response.json()["details"]] == ["date"]


@pytest.mark.parametrize(
    "fingerprint", ["", " ", "a b", "ä", "a\u0000", "\u007f", "x" * 513, None, 7]
)
def test_a_bad_fingerprint_is_refused(client: Client, fingerprint: object) -> None:
    event = client.create_event()
    response = client.post(
        f"/events/{event}/tickets", json={"quantity": 1, "userFingerprint": fingerprint}
    )
    assert code(response) == (400, "BAD_REQUEST")
    assert [detail["field"] for detail in response.json()["details"]] == ["userFingerprint"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_a_bad_key_is_refused(client: Client, key: str) -> None:
    event = client.create_event()
    response = client.post(
        f"/events/{event}/tickets",
        json={"quantity": 1, "userFingerprint": "alice"},
        headers={"Idempotency-Key": key},
    )
    assert code(response) == (400, "BAD_REQUEST")


def test_a_duplicate_field_is_refused(client: Client) -> None:
    event = client.create_event()
    body = '{"quantity": 1, "userFingerprint": "alice", "quantity": 2}'
    assert bad_fields(client, "POST", f"/events/{event}/tickets", body) == {"quantity"}


def test_an_update_without_a_field_is_refused(client: Client) -> None:
    event = client.create_event()
    assert code(client.update_event(event)) == (400, "BAD_REQUEST")
    assert bad_fields(client, "PATCH", f"/events/{event}", '{"name": null}') == {"name"}


@pytest.mark.parametrize(
    "id_",
    [
        "1",
        "x" * 36,
        "018f0000000070008000000000000001",
        "018f0000-0000-7000-8000-00000000_001",
        "%20018f0000-0000-7000-8000-00000000001",
        "018f0000000070008000000000000001----",
        "%00",
    ],
)
def test_a_malformed_id_is_refused(client: Client, id_: str) -> None:
    for method, url, name in [
        ("GET", f"/events/{id_}", "eventId"),
        ("GET", f"/events/tickets/{id_}", "ticketId"),
        ("POST", f"/events/tickets/{id_}/refund", "ticketId"),
        ("GET", f"/reservations/{id_}", "reservationId"),
    ]:
        response = client.request(method, url)
        assert code(response) == (400, "BAD_REQUEST")
        assert response.json()["details"] == [{"field": name, "message": "must be a UUID"}]


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page=2147483648",
        "page=1&page=2",
        "limit=0",
        "limit=101",
        "limit=%D9%A1",
        "unknown=1",
        "available=yes",
        "from=2030-01-01",
        "q=%00",
        f"q={'x' * 1021}",
        "q=" + "%CC%81%CC%96" * 1000,
        "page=",
    ],
)
def test_a_bad_query_is_refused(client: Client, query: str) -> None:
    response = client.get(f"/events?{query}")
    assert code(response) == (400, "BAD_REQUEST")
    assert response.json()["details"][0]["field"] == query.partition("=")[0]


def test_a_query_on_a_route_without_parameters_is_refused(client: Client) -> None:
    event = client.create_event()
    assert code(client.get(f"/events/{event}?verbose=1")) == (400, "BAD_REQUEST")


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    large = b'{"name": "' + b"x" * 65_536 + b'"}'
    assert code(client.post("/events", content=large, headers=JSON)) == (413, "PAYLOAD_TOO_LARGE")
    chunked = client.post("/events", content=iter([large]), headers=JSON)
    assert code(chunked) == (413, "PAYLOAD_TOO_LARGE")
    # The size is checked before the id, the fields and the media type.
    assert client.post("/events/x/tickets", content=large).status_code == 413


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 65537\r\n\r\n",
        # All at once, so that the body has arrived before the handler needs it.
        b"Transfer-Encoding: chunked\r\n\r\n10001\r\n" + b" " * 65_537 + b"\r\n0\r\n\r\n",
    ],
    ids=["before it arrives", "when it has arrived"],
)
def test_a_body_is_refused_by_its_length(client: Client, rest: bytes) -> None:
    url = client.base_url
    assert url.port is not None
    with socket.create_connection((url.host, url.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + rest
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_an_id_may_be_in_capitals(client: Client) -> None:
    event = client.create_event()
    assert client.get(f"/events/{event.upper()}").json()["id"] == event


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_with_another_media_type_is_refused(client: Client, media_type: str) -> None:
    response = client.post("/events", content=b"{}", headers={"Content-Type": media_type})
    assert code(response) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_json_media_type_may_have_a_charset(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert code(client.post("/events", content=b"{}", headers=headers)) == (400, "BAD_REQUEST")


def test_an_unknown_path_is_not_found(client: Client) -> None:
    for path in ("/index.html", "/event", "/events/", "/events/x/y/z"):
        assert code(client.get(path)) == (404, "NOT_FOUND")


def test_a_wrong_method_is_refused_with_the_allowed_ones(client: Client) -> None:
    response = client.put("/events")
    assert code(response) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["Allow"] == "GET, HEAD, POST"
    response = client.get("/events/tickets/018f0000-0000-7000-8000-000000000001/refund")
    assert response.headers["Allow"] == "POST"


def test_head_returns_the_headers_of_get_without_the_body(client: Client) -> None:
    event = client.create_event()
    get, head = client.get(f"/events/{event}"), client.head(f"/events/{event}")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert head.headers[name] == get.headers[name]


def test_a_whole_number_may_have_a_decimal_point(client: Client) -> None:
    event = client.create_event(tickets=7)
    response = client.request(
        "PATCH", f"/events/{event}", content=b'{"totalTickets": 7.0}', headers=JSON
    )
    assert (response.status_code, response.json()["version"]) == (200, 1)


def test_a_fraction_of_a_second_is_truncated_to_microseconds(client: Client) -> None:
    event = client.create_event(date="2030-06-01t20:00:00.1234567891z")
    assert client.find_event(event)["date"] == "2030-06-01T20:00:00.123456Z"


def test_a_line_break_behind_a_path_is_not_part_of_it(client: Client) -> None:
    event = client.create_event()
    # Not the tests' own client, which expects each path that it sees to be documented.
    with httpx2.Client(base_url=client.base_url) as stranger:
        for path in ("/events", f"/events/{event}", "/health"):
            assert stranger.get(path).status_code == 200
            # In place of an id, the line break is a part of a malformed id.
            assert code(stranger.get(f"{path}%0A")) in [(404, "NOT_FOUND"), (400, "BAD_REQUEST")]
