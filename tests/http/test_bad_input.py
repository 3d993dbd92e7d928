"""Bad input: refused in one shape, every bad field named at once, nothing written."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Client, code
from tests.support.database import Database, created
from tests.support.services import RunningService, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

NUMBERS = itertools.count(1)

JSON = {"Content-Type": "application/json"}
GOOD = {"name": "Gig", "date": "2030-06-01T20:00:00Z", "totalTickets": 5}


def bad_fields(client: Client, method: str, url: str, content: bytes | str) -> set[str]:
    """Send a body that must be refused, and return the fields that the refusal names."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    answer = client.request(method, url, content=content, headers=JSON)
    assert code(answer) == (400, "BAD_REQUEST"), answer.text
    details = answer.json()["details"]
    assert all(set(one) == {"field", "message"} for one in details)
    return {one["field"] for one in details}


class NumberedClient(Client):
    """A client whose events have each a name of their own: they share one database."""

    def create_event(self, tickets: int = 10, name: str = "Event", **fields: Any) -> str:
        """Make an event and return its id."""
        return super().create_event(tickets, f"{name} {next(NUMBERS)}", **fields)


@pytest.fixture(scope="module")
def shared(server: str, template: str) -> Iterator[Database]:
    """One database for all of these tests, since none of them writes."""
    with created(server, template) as database:
        yield database
        database.adds_up()


@pytest.fixture(scope="module")
def client(shared: Database) -> Iterator[Client]:
    """A client of one service for all of these tests."""
    service = RunningService(shared, settings_for_tests())
    service.start()
    with NumberedClient(base_url=service.url, timeout=WAIT_SECONDS) as client:
        yield client
    service.stop()


@pytest.fixture(autouse=True)
def nothing_is_written(client: Client, shared: Database) -> Iterator[None]:
    """After each test: no ticket, and no event but those that were made on purpose, as made."""
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
def test_what_is_no_object_of_json_is_refused(client: Client, body: bytes) -> None:
    answer = client.post("/events", content=body, headers=JSON)
    assert code(answer) == (400, "BAD_REQUEST")


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


def test_more_tickets_than_one_may_want_are_refused(client: Client) -> None:
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
    answer = client.post("/events", json={**GOOD, "date": date})
    assert code(answer) == (400, "BAD_REQUEST")
    assert [one["field"] for one in answer.json()["details"]] == ["date"]


@pytest.mark.parametrize(
    "fingerprint", ["", " ", "a b", "ä", "a\u0000", "\u007f", "x" * 513, None, 7]
)
def test_a_bad_fingerprint_is_refused(client: Client, fingerprint: object) -> None:
    event = client.create_event()
    answer = client.post(
        f"/events/{event}/tickets", json={"quantity": 1, "userFingerprint": fingerprint}
    )
    assert code(answer) == (400, "BAD_REQUEST")
    assert [one["field"] for one in answer.json()["details"]] == ["userFingerprint"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_a_bad_key_is_refused(client: Client, key: str) -> None:
    event = client.create_event()
    answer = client.post(
        f"/events/{event}/tickets",
        json={"quantity": 1, "userFingerprint": "alice"},
        headers={"Idempotency-Key": key},
    )
    assert code(answer) == (400, "BAD_REQUEST")


def test_a_field_that_is_given_twice_is_refused(client: Client) -> None:
    event = client.create_event()
    body = '{"quantity": 1, "userFingerprint": "alice", "quantity": 2}'
    assert bad_fields(client, "POST", f"/events/{event}/tickets", body) == {"quantity"}


def test_an_update_of_nothing_is_refused(client: Client) -> None:
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
    for method, url in [
        ("GET", f"/events/{id_}"),
        ("GET", f"/events/tickets/{id_}"),
        ("POST", f"/events/tickets/{id_}/refund"),
    ]:
        assert code(client.request(method, url)) == (400, "BAD_REQUEST")


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
        "page=",
    ],
)
def test_a_bad_query_is_refused(client: Client, query: str) -> None:
    answer = client.get(f"/events?{query}")
    assert code(answer) == (400, "BAD_REQUEST")
    assert answer.json()["details"][0]["field"] == query.partition("=")[0]


def test_a_query_where_none_belongs_is_refused(client: Client) -> None:
    event = client.create_event()
    assert code(client.get(f"/events/{event}?verbose=1")) == (400, "BAD_REQUEST")


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    large = b'{"name": "' + b"x" * 65_536 + b'"}'
    assert code(client.post("/events", content=large, headers=JSON)) == (413, "PAYLOAD_TOO_LARGE")
    chunked = client.post("/events", content=iter([large]), headers=JSON)
    assert code(chunked) == (413, "PAYLOAD_TOO_LARGE")
    # It comes before the id, the fields and the media type are looked at.
    assert client.post("/events/x/tickets", content=large).status_code == 413


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_json_by_name_is_refused(client: Client, media_type: str) -> None:
    answer = client.post("/events", content=b"{}", headers={"Content-Type": media_type})
    assert code(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_json_with_a_charset_is_json(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert code(client.post("/events", content=b"{}", headers=headers)) == (400, "BAD_REQUEST")


def test_what_is_no_route_is_not_found_in_the_same_shape(client: Client) -> None:
    for path in ("/index.html", "/event", "/events/", "/events/x/y/z"):
        assert code(client.get(path)) == (404, "NOT_FOUND")


def test_a_method_that_a_path_does_not_have_names_those_it_has(client: Client) -> None:
    answer = client.put("/events")
    assert code(answer) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    answer = client.get("/events/tickets/018f0000-0000-7000-8000-000000000001/refund")
    assert answer.headers["Allow"] == "POST"


def test_head_answers_as_get_does_without_the_body(client: Client) -> None:
    event = client.create_event()
    got, headed = client.get(f"/events/{event}"), client.head(f"/events/{event}")
    assert (headed.status_code, headed.content) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert headed.headers[name] == got.headers[name]


def test_whole_numbers_may_be_written_with_a_point(client: Client) -> None:
    event = client.create_event(tickets=7)
    answer = client.request(
        "PATCH", f"/events/{event}", content=b'{"totalTickets": 7.0}', headers=JSON
    )
    assert (answer.status_code, answer.json()["version"]) == (200, 1)


def test_a_fraction_of_a_second_is_cut_to_microseconds(client: Client) -> None:
    event = client.create_event(date="2030-06-01t20:00:00.1234567891z")
    assert client.event(event)["date"] == "2030-06-01T20:00:00.123456Z"
