"""The description: a true one of every route, and the service does as it says."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import compile_path

from service.web.routes import ROUTES
from tests.support.client import Client, code
from tests.support.database import Database, created
from tests.support.described import Json, answers_of, operations
from tests.support.paths import DOCS
from tests.support.services import RunningService, Starter, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

TOKEN = "the-organizers-own-token"  # noqa: S105 - of these tests alone
ALL = {(method, path) for path, methods in ROUTES.items() for method in methods}
DATES = FormatChecker(["date-time", "uuid"])

REFERENCE = (DOCS / "reference" / "http.md").read_text()
ROUTE_ROW = re.compile(r"^\| `([A-Z]+) (/[^?`]*)(?:\?([^`]*))?`([^|]*)\|([^|]*)\|(.*)\|$", re.M)
REFUSAL_ROW = re.compile(r"^\| ([0-9, ]+) \| ([^|]+) \|", re.M)


@pytest.fixture(scope="module")
def client(server: str, template: str) -> Iterator[Client]:
    """A client of a service with an organiser's token, which it sends."""
    with created(server, template) as database:
        service = RunningService(database, settings_for_tests(organizer_token=TOKEN))
        service.start()
        with Client(base_url=service.url, timeout=WAIT_SECONDS) as client:
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            yield client
        service.stop()
        database.adds_up()


@pytest.fixture(scope="module")
def told(client: Client) -> Json:
    """What the service says of itself."""
    answer = client.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    found: Json = answer.json()
    return found


def check(told: Json, schema: Json, value: Any) -> None:
    """Assert that a value is what its schema says."""
    whole = {**schema, "components": told["components"]}
    Draft202012Validator(whole, format_checker=DATES).validate(value)


def named(told: Json, schema: Json) -> Json:
    """Return what a schema is, also where it is only named."""
    found: Json = told["components"]["schemas"].get(schema.get("$ref", "")[21:], schema)
    return found


def test_it_is_openapi(told: Json) -> None:
    assert told["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(told).iter_errors()) == []


def test_every_route_is_in_it_and_none_else(told: Json) -> None:
    assert set(operations(told)) == ALL
    assert len({one["operationId"] for one in operations(told).values()}) == len(ALL)
    assert all(one["summary"] for one in operations(told).values())


def test_a_generator_finds_a_name_for_everything(told: Json) -> None:
    schemas = told["components"]["schemas"]
    for name, schema in schemas.items():
        assert re.fullmatch("([A-Z][a-z]+)+", name)
        assert not name.endswith("Answer"), "it is one of the names of our own code"
        assert schema.get("title", name) == name
    for (_, path), operation in operations(told).items():
        assert re.fullmatch("[a-z]+([A-Z][a-z]+)+", operation["operationId"])
        for body in [operation.get("requestBody", {}), *operation["responses"].values()]:
            schema = body.get("content", {}).get("application/json", {}).get("schema", {})
            for one in schema.get("oneOf", [schema.get("items", schema)]):
                assert not one or one.keys() == {"$ref"} or path == "/openapi.json"


def test_it_says_what_the_reference_says(told: Json) -> None:
    rows = {(row[0], row[1].strip()): row for row in ROUTE_ROW.findall(REFERENCE)}
    assert set(rows) == ALL
    of_all = REFERENCE.partition("## Refusals")[2].partition("## ")[0]
    refusals = REFUSAL_ROW.findall(of_all)
    anywhere = {int(status) for statuses, _ in refusals for status in statuses.split(", ")}
    listed = {one for _, named in refusals for one in re.findall("`([A-Z_]{4,})`", named)}
    for route, operation in operations(told).items():
        _, _, query, sent, does, answered = rows[route]
        said = answers_of(told, operation)
        # The route's own; what every route may refuse stands in a table of its own.
        own = set(map(int, re.findall(r"\b[2-5]\d\d\b", answered)))
        assert {status for status, _ in said} - anywhere == own - anywhere, route
        own_codes = set(re.findall("`([A-Z_]{4,})`", answered))
        assert {one for _, one in said} - listed - {""} == own_codes, route
        assert (404 in own) == (404 in {status for status, _ in said}), route
        parameters = {one["name"]: one for one in operation["parameters"]}
        for name, default in parse_qsl(query, keep_blank_values=True):
            assert str(parameters[name]["schema"].get("default", "")) == default, (route, name)
        text = " ".join((query, sent, does, answered))
        for name in parameters:
            assert re.search(rf"\b{name}\b", text), (route, name)
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        names = re.findall(r"\{(.*)\}", sent)
        fields = names[0].split(", ") if names else []
        assert list(named(told, body.get("schema", {})).get("properties", {})) == fields, route
        assert ("(O)" in sent) == ("security" in operation) == (401 in dict(said)), route
    said_anywhere = {
        one for operation in operations(told).values() for _, one in answers_of(told, operation)
    }
    assert listed - said_anywhere == {"METHOD_NOT_ALLOWED"}


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("Event", "Event"),
        ("Ticket", "Ticket"),
        ("Reservation", "Reservation"),
        ("Entry of the ledger", "LedgerEntry"),
    ],
)
def test_an_answer_has_the_fields_that_the_reference_lists(
    told: Json, name: str, schema: str
) -> None:
    (listed,) = re.findall(rf"An? {name} is `\{{([^}}]*)\}}`", REFERENCE)
    named = [re.sub(":.*", "", one.strip()) for one in listed.split(",")]
    properties = list(told["components"]["schemas"][schema]["properties"])
    assert [one for one in properties if one != "userFingerprint"] == named


def test_every_example_is_what_its_schema_says(told: Json) -> None:
    def schemas(of: Any) -> Iterator[Json]:
        if isinstance(of, dict):
            if isinstance(of.get("examples"), list):
                yield of
            for value in of.values():
                yield from schemas(value)
        elif isinstance(of, list):
            for value in of:
                yield from schemas(value)

    for schema in schemas(told):
        for example in schema["examples"]:
            check(told, schema, example)
    for (_, path), operation in operations(told).items():
        for body in [operation.get("requestBody", {}), *operation["responses"].values()]:
            for content in body.get("content", {}).values():
                shown = [one["value"] for one in content.get("examples", {}).values()]
                shown += [content["example"]] if "example" in content else []
                for one in shown:
                    check(told, content["schema"], one)
                assert shown or path in ("/openapi.json", "/", "/docs", "/metrics"), path


def test_a_link_leads_to_a_route_that_reads_what_it_gives(told: Json) -> None:
    described = operations(told)
    by_name = {one["operationId"]: route for route, one in described.items()}
    seen = set()
    for operation in described.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                method, path = by_name[link["operationId"]]
                target = described[method, path]
                named = {f"header.{one['name']}" for one in target["parameters"]} | {"path.id"}
                assert link["parameters"].keys() <= named
                assert "{id}" in path
                assert ("requestBody" in link) <= ("requestBody" in target)
                seen.add((operation["operationId"], link["operationId"]))
    assert {("createEvent", "reserveTickets"), ("payTicket", "refundTicket")} <= seen
    for verb in ("findTicket", "payTicket", "cancelTicket", "payReservation"):
        assert ("reserveTickets", verb) in seen


class Described(Client):
    """A client that holds each answer to what is said of it."""

    told: Json
    asked: set[tuple[str, str]]

    def request(self, *arguments: Any, **options: Any) -> httpx2.Response:
        """Send a request, and hold its answer to the description."""
        answer = super().request(*arguments, **options)
        (path,) = [path for path in ROUTES if compile_path(path)[0].match(answer.url.path)][:1]
        method = answer.request.method
        response = operations(self.told)[method, path]["responses"][str(answer.status_code)]
        for name, header in response["headers"].items():
            header = self.told["components"]["headers"][header["$ref"].rpartition("/")[2]]
            assert (name in answer.headers) or not header["required"], (method, path, name)
        shown = {"ETag", "Location", "Idempotency-Replayed", "Retry-After", "WWW-Authenticate"}
        assert {name for name in shown if name in answer.headers} <= set(response["headers"])
        if "content" not in response:
            assert not answer.content
            return answer
        ((media_type, content),) = response["content"].items()
        assert answer.headers["Content-Type"] == media_type
        text = media_type != "application/json"
        check(self.told, content["schema"], answer.text if text else answer.json())
        if not text:
            # No field but those that are named: a schema alone would let others pass.
            check(closed(self.told), content["schema"], answer.json())
        if answer.status_code < 300:
            self.asked.add((method, path))
        return answer


def closed(told: Json) -> Json:
    """Return the description with schemas that let no other field pass."""
    schemas = {
        name: {**schema, "additionalProperties": False}
        for name, schema in told["components"]["schemas"].items()
    }
    return {"components": {**told["components"], "schemas": schemas}}


def test_a_sale_is_answered_as_described(client: Client, told: Json) -> None:
    with Described(base_url=client.base_url, timeout=WAIT_SECONDS) as buyer:
        buyer.told, buyer.asked = told, set()
        assert code(buyer.post("/events", json={})) == (401, "UNAUTHORIZED")
        buyer.headers["Authorization"] = f"Bearer {TOKEN}"
        event = buyer.create_event(tickets=5)
        same = {"name": "Opening night", "date": "2030-01-01T20:00:00Z", "totalTickets": 5}
        assert code(buyer.post("/events", json=same)) == (409, "EVENT_EXISTS")
        assert buyer.get("/events", params={"available": "true"}).json()["meta"]["total"] == 1
        fingerprint = buyer.post("/fingerprints").json()["userFingerprint"]

        first = buyer.reserve(event, 2, user=fingerprint, key="once").json()
        again = buyer.reserve(event, 2, user=fingerprint, key="once")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert code(buyer.reserve(event, 1, fingerprint, "once"))[0] == 422
        assert code(buyer.reserve(event, 4)) == (409, "NOT_ENOUGH_TICKETS")
        second, third = buyer.reserve(event, 2).json(), buyer.hold(event)[0]
        assert code(buyer.reserve(event)) == (409, "TICKETS_SOLD_OUT")
        assert code(buyer.update_event(event, totalTickets=1))[1] == "CAPACITY_BELOW_ALLOCATED"
        assert buyer.update_event(event, totalTickets=6).status_code == 200

        assert code(buyer.pay_reservation(first[0]["reservationId"])) == (403, "WRONG_FINGERPRINT")
        assert buyer.pay_reservation(first[0]["reservationId"], fingerprint).status_code == 200
        assert buyer.reservation(second[0]["reservationId"]).status_code == 200
        assert buyer.cancel_reservation(second[0]["reservationId"]).status_code == 200
        assert buyer.ticket(third).status_code == 200
        assert buyer.ticket(third, "alice").json()["userFingerprint"] == "alice"
        assert buyer.cancel(third).status_code == 200
        assert code(buyer.pay(third)) == (409, "ALREADY_CANCELLED")
        fourth = buyer.hold(event)[0]
        assert buyer.pay(fourth).status_code == 200
        assert code(buyer.cancel(fourth)) == (409, "ALREADY_PURCHASED")
        assert buyer.refund(fourth).status_code == 200
        assert code(buyer.refund(fourth)) == (409, "ALREADY_REFUNDED")

        shown = buyer.get(f"/events/{event}")
        known = {"If-None-Match": shown.headers["ETag"]}
        assert buyer.get(f"/events/{event}", headers=known).status_code == 304
        assert buyer.user_tickets().json()["meta"]["total"] == 4
        assert buyer.event_tickets(event, limit=1).json()["meta"]["pages"] == 6
        assert buyer.ledger(event, limit=1).json()["meta"]["next"] == 1
        assert buyer.audit(event).json()["ok"]
        assert code(buyer.event_tickets(first[0]["id"])) == (404, "NOT_FOUND")
        assert code(buyer.get("/events", params={"page": "0"})) == (400, "BAD_REQUEST")
        assert buyer.post("/events", content="{}").status_code == 415
        for path in ("/health", "/health/live", "/metrics", "/", "/docs", "/openapi.json"):
            assert buyer.get(path).status_code == 200
        # All but the stream, which has no end.
        assert buyer.asked == ALL - {("GET", "/events/{id}/stream")}


def test_a_message_of_the_stream_is_as_described(client: Client, told: Json) -> None:
    event = client.create_event(name="Watched")
    described = operations(told)["GET", "/events/{id}/stream"]["responses"]["200"]
    ((media_type, content),) = described["content"].items()
    with client.stream("GET", f"/events/{event}/stream") as stream:
        assert stream.headers["Content-Type"].partition(";")[0] == media_type
        assert described["headers"].keys() <= {name.title() for name in stream.headers}
        lines = [line for line, _ in zip(stream.iter_lines(), range(4), strict=False)]
    message = dict(line.split(": ", 1) for line in lines[2:])
    check(told, content["schema"], message)
    schema = content["schema"]["properties"]["data"]["contentSchema"]
    for data in (message["data"], content["example"]["data"]):
        check(closed(told), schema, json.loads(data))


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_asks_nobody_but_the_service(client: Client, path: str) -> None:
    page = client.get(path)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    # The browser is told to run the page's script and no other.
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    ]
    assert len(digests) == (path == "/docs")
    assert policy.partition("script-src")[2] == "".join(f" 'sha256-{one}'" for one in digests)
    assert not re.search(r"\w://|[\"'=(]//|\bsrc=|<link|@import|innerHTML", page.text)


def test_the_root_says_what_this_is_and_leads_on(client: Client, told: Json) -> None:
    page = client.get("/").text
    assert told["info"]["description"].partition("\n")[0] in page
    links = re.findall('href="(.*?)">(.*?)<', page)
    assert [name for _, name in links] == ["/docs", "/openapi.json", "/health", "/metrics"]
    for link, name in links:
        assert client.get(f"/{link}").url.path == name
        assert client.get(f"/{link}").status_code == 200


def test_it_says_what_is_set(database: Database, start: Starter) -> None:
    with start(database, max_tickets_per_request=3).client() as client:
        told = client.get("/openapi.json").json()
    reserve = operations(told)["POST", "/events/{id}/tickets"]
    body = named(told, reserve["requestBody"]["content"]["application/json"]["schema"])
    assert body["properties"]["quantity"]["maximum"] == 3
    # Without a token everybody may organise.
    assert "securitySchemes" not in told["components"]
    for operation in operations(told).values():
        assert "security" not in operation
        assert "401" not in operation["responses"]
