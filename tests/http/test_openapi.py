"""The OpenAPI description is valid and complete, and the service behaves as it says."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import compile_path

from service.web.routes import ROUTES
from tests.support.api_description import Json, operations
from tests.support.client import Client, code
from tests.support.database import Database, create_database
from tests.support.services import RunningService, Starter, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

TOKEN = "the-organizers-own-token"  # noqa: S105 - used by tests only
ALL = {(method, path) for path, methods in ROUTES.items() for method in methods}
FORMATS = FormatChecker(["date-time", "uuid"])


@pytest.fixture(scope="module")
def database(server: str, template: str) -> Iterator[Database]:
    """A database for all tests of this module."""
    with create_database(server, template) as database:
        yield database
        database.check_books()


@pytest.fixture(scope="module")
def client(database: Database) -> Iterator[Client]:
    """A client that sends the organizer token of its service."""
    service = RunningService(database, settings_for_tests(organizer_token=TOKEN))
    service.start()
    with Client(base_url=service.url, timeout=WAIT_SECONDS) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    service.stop()


@pytest.fixture(scope="module")
def description(client: Client) -> Json:
    """The OpenAPI description of the service."""
    response = client.get("/openapi.json")
    assert response.headers["Content-Type"] == "application/json"
    description: Json = response.json()
    return description


def check(description: Json, schema: Json, value: Any) -> None:
    """Assert that a value matches its schema."""
    complete = {**schema, "components": description["components"]}
    Draft202012Validator(complete, format_checker=FORMATS).validate(value)


def resolve(description: Json, schema: Json) -> Json:
    """Return a schema itself, or the one that its $ref names."""
    resolved: Json = description["components"]["schemas"].get(schema.get("$ref", "")[21:], schema)
    return resolved


def test_the_description_is_valid_openapi(description: Json) -> None:
    assert description["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(description).iter_errors()) == []


def test_the_description_has_exactly_the_routes_of_the_service(description: Json) -> None:
    described = operations(description)
    assert set(described) == ALL
    assert len({operation["operationId"] for operation in described.values()}) == len(ALL)
    for operation in described.values():
        assert operation["summary"]
        assert operation["description"]
        assert operation["summary"] not in operation["description"]


def test_a_path_parameter_is_named_after_what_it_identifies(description: Json) -> None:
    names = set()
    for path, item in description["paths"].items():
        own = [parameter["name"] for parameter in item["parameters"] if "$ref" not in parameter]
        assert own == re.findall(r"{(\w+)}", path)
        names.update(own)
    assert names == {"eventId", "ticketId", "reservationId", "entryId"}


def test_only_the_routes_of_the_organizer_have_a_security_scheme(description: Json) -> None:
    assert description["security"] == []
    for (method, path), operation in operations(description).items():
        needs_token = ROUTES[path][method].for_organizer
        assert operation.get("security") == ([{"organizer": []}] if needs_token else None)


def test_every_schema_and_operation_has_a_name_for_generators(description: Json) -> None:
    schemas = description["components"]["schemas"]
    for name, schema in schemas.items():
        assert re.fullmatch("([A-Z][a-z]+)+", name)
        assert not name.endswith("Response"), "this is the name of a Python class"
        assert schema.get("title", name) == name
    for (_, path), operation in operations(description).items():
        assert re.fullmatch("[a-z]+([A-Z][a-z]+)+", operation["operationId"])
        for body in [operation.get("requestBody", {}), *operation["responses"].values()]:
            schema = body.get("content", {}).get("application/json", {}).get("schema", {})
            for part in schema.get("oneOf", [schema.get("items", schema)]):
                assert not part or part.keys() == {"$ref"} or path == "/openapi.json"


def test_every_example_matches_its_schema(description: Json) -> None:
    def schemas(value: Any) -> Iterator[Json]:
        if isinstance(value, dict):
            if isinstance(value.get("examples"), list):
                yield value
            value = list(value.values())
        if isinstance(value, list):
            for part in value:
                yield from schemas(part)

    for schema in schemas(description):
        for example in schema["examples"]:
            check(description, schema, example)
    for (_, path), operation in operations(description).items():
        for body in [operation.get("requestBody", {}), *operation["responses"].values()]:
            for content in body.get("content", {}).values():
                examples = [example["value"] for example in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                for example in examples:
                    check(description, content["schema"], example)
                assert examples or path in ("/openapi.json", "/", "/docs", "/metrics"), path


def test_a_link_gives_its_target_parameters_that_exist(description: Json) -> None:
    described = operations(description)
    routes = {operation["operationId"]: route for route, operation in described.items()}
    links = set()
    for operation in described.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                method, path = routes[link["operationId"]]
                target = described[method, path]
                headers = {f"header.{parameter['name']}" for parameter in target["parameters"]}
                (name,) = re.findall(r"{(\w+)}", path)
                assert link["parameters"].keys() <= headers | {f"path.{name}"}
                assert ("requestBody" in link) <= ("requestBody" in target)
                links.add((operation["operationId"], link["operationId"]))
    assert {("createEvent", "reserveTickets"), ("payTicket", "refundTicket")} <= links
    for verb in ("findTicket", "payTicket", "cancelTicket", "payReservation"):
        assert ("reserveTickets", verb) in links
    for verb in ("findWaitingEntry", "leaveWaitingList"):
        assert ("joinWaitingList", verb) in links


class CheckingClient(Client):
    """A client that checks each response against the description."""

    description: Json
    succeeded: set[tuple[str, str]]

    def request(self, *arguments: Any, **options: Any) -> httpx2.Response:
        """Send a request and check its response."""
        response = super().request(*arguments, **options)
        path = next(path for path in ROUTES if compile_path(path)[0].match(response.url.path))
        method = response.request.method
        described = operations(self.description)[method, path]["responses"][
            str(response.status_code)
        ]
        for name, header in described["headers"].items():
            header = self.description["components"]["headers"][header["$ref"].rpartition("/")[2]]
            assert (name in response.headers) or not header["required"], (method, path, name)
        names = {"ETag", "Location", "Idempotency-Replayed", "Retry-After", "WWW-Authenticate"}
        names |= {"Cache-Control", "Vary"}
        assert {name for name in names if name in response.headers} <= set(described["headers"])
        if "content" not in described:
            assert not response.content
            return response
        ((media_type, content),) = described["content"].items()
        assert response.headers["Content-Type"] == media_type
        if media_type == "application/json":
            check(self.description, content["schema"], response.json())
            check(forbid_other_fields(self.description), content["schema"], response.json())
        else:
            check(self.description, content["schema"], response.text)
        if response.status_code < 300:
            self.succeeded.add((method, path))
        return response


def forbid_other_fields(description: Json) -> Json:
    """Return the description with schemas that accept only the fields they name."""
    schemas = {
        name: {**schema, "additionalProperties": False}
        for name, schema in description["components"]["schemas"].items()
    }
    return {"components": {**description["components"], "schemas": schemas}}


def test_every_response_of_a_sale_matches_the_description(
    client: Client, database: Database, description: Json
) -> None:
    with CheckingClient(base_url=client.base_url, timeout=WAIT_SECONDS) as buyer:
        buyer.description, buyer.succeeded = description, set()
        assert code(buyer.post("/events", json={})) == (401, "UNAUTHORIZED")
        buyer.headers["Authorization"] = f"Bearer {TOKEN}"
        event = buyer.create_event(tickets=5)
        duplicate = {"name": "Opening night", "date": "2030-01-01T20:00:00Z", "totalTickets": 5}
        assert code(buyer.post("/events", json=duplicate)) == (409, "EVENT_EXISTS")
        assert buyer.get("/events", params={"available": "true"}).json()["meta"]["total"] == 1
        fingerprint = buyer.post("/fingerprints").json()["userFingerprint"]

        first = buyer.reserve(event, 2, user=fingerprint, key="once").json()
        replay = buyer.reserve(event, 2, user=fingerprint, key="once")
        assert replay.headers["Idempotency-Replayed"] == "true"
        assert code(buyer.reserve(event, 1, fingerprint, "once"))[0] == 422
        assert code(buyer.reserve(event, 4)) == (409, "NOT_ENOUGH_TICKETS")
        second, third = buyer.reserve(event, 2).json(), buyer.hold(event)[0]
        assert code(buyer.reserve(event)) == (409, "TICKETS_SOLD_OUT")
        assert code(buyer.update_event(event, totalTickets=1))[1] == "CAPACITY_BELOW_ALLOCATED"
        assert buyer.update_event(event, totalTickets=6).status_code == 200

        assert code(buyer.pay_reservation(first[0]["reservationId"])) == (403, "WRONG_FINGERPRINT")
        assert buyer.pay_reservation(first[0]["reservationId"], fingerprint).status_code == 200
        assert buyer.find_reservation(second[0]["reservationId"]).status_code == 200
        assert buyer.cancel_reservation(second[0]["reservationId"]).status_code == 200
        assert buyer.find_ticket(third).status_code == 200
        assert buyer.find_ticket(third, "alice").json()["userFingerprint"] == "alice"
        assert buyer.cancel(third).status_code == 200
        assert code(buyer.pay(third)) == (409, "ALREADY_CANCELLED")
        fourth = buyer.hold(event)[0]
        assert buyer.pay(fourth).status_code == 200
        assert code(buyer.cancel(fourth)) == (409, "ALREADY_PURCHASED")
        assert buyer.transfer(fourth, "bob").json()["userFingerprint"] == "bob"
        assert code(buyer.transfer(fourth, "bob")) == (403, "WRONG_FINGERPRINT")
        assert buyer.transfer(fourth, "alice", user="bob").status_code == 200
        assert buyer.refund(fourth).status_code == 200
        assert code(buyer.refund(fourth)) == (409, "ALREADY_REFUNDED")
        refund = buyer.refund_reservation(first[0]["reservationId"], resale=False)
        assert refund.json()["status"] == "refunded"

        fifth = buyer.reserve(event).json()[0]["reservationId"]
        assert buyer.update_event(event, holdSeconds=1800).status_code == 200
        assert buyer.extend_reservation(fifth).status_code == 200
        assert code(buyer.extend_reservation(fifth)) == (409, "HOLD_AT_MAXIMUM")
        database.psql("update ticket_allocations set expires_at = now() where status = 'reserved'")
        bobs = buyer.hold(event, 4, "bob")
        assert code(buyer.pay_late_reservation(fifth)) == (410, "HOLD_EXPIRED")
        for ticket in bobs:
            assert buyer.cancel(ticket, "bob").status_code == 200
        assert buyer.pay_late_reservation(fifth).status_code == 200
        for terms, refusal in (
            ({"saleOpensAt": "2100-01-01T00:00:00Z"}, "SALE_NOT_OPEN"),
            ({"saleOpensAt": None, "saleClosesAt": "now"}, "SALE_CLOSED"),
            ({"saleClosesAt": None, "maxTicketsPerPerson": 1}, "LIMIT_REACHED"),
        ):
            assert buyer.update_event(event, **terms).status_code == 200
            assert code(buyer.reserve(event)) == (409, refusal)
        assert code(buyer.update_event(event, revision=1)) == (409, "EVENT_CHANGED")
        stale = buyer.patch(f"/events/{event}", json={"name": "New"}, headers={"If-Match": "x"})
        assert code(stale) == (412, "PRECONDITION_FAILED")

        line = buyer.create_event(name="With a line", tickets=1)
        buyer.hold(line, user="owen")
        entry = buyer.join_line(line, 1, fingerprint).json()["id"]
        assert buyer.join_line(line, 1, fingerprint).status_code == 200
        assert code(buyer.join_line(line, 2, fingerprint)) == (409, "ALREADY_WAITING")
        assert code(buyer.join_line(line, 2)) == (409, "NOT_ENOUGH_TICKETS")
        assert code(buyer.reserve(line)) == (409, "WAITING_LIST_FIRST")
        assert buyer.find_entry(entry, fingerprint).json()["ahead"] == {"entries": 0, "tickets": 0}
        assert buyer.list_line(line, limit=1).json()["meta"]["next"] is None
        assert buyer.leave_line(entry, fingerprint).status_code == 200
        assert code(buyer.leave_line(entry, fingerprint)) == (409, "ALREADY_LEFT")

        etag = buyer.get(f"/events/{event}").headers["ETag"]
        unchanged = buyer.get(f"/events/{event}", headers={"If-None-Match": etag})
        assert unchanged.status_code == 304
        assert buyer.list_user_tickets().json()["meta"]["total"] == 5
        page = buyer.list_event_tickets(event, limit=1).json()["meta"]
        assert page["pages"] == 11
        following = buyer.list_event_tickets(event, limit=1, after=page["next"])
        assert following.json()["meta"]["next"]
        numbered = buyer.list_event_tickets(event, limit=1, page=2)
        assert numbered.json()["data"] == following.json()["data"]
        assert code(buyer.list_user_tickets(after=event)) == (400, "BAD_REQUEST")
        assert buyer.list_ledger(event, limit=1).json()["meta"]["next"] == 1
        assert buyer.check_event(event).json()["ok"]
        assert code(buyer.list_event_tickets(first[0]["id"])) == (404, "NOT_FOUND")
        assert code(buyer.get("/events", params={"page": "0"})) == (400, "BAD_REQUEST")
        assert buyer.post("/events", content="{}").status_code == 415
        for path in ("/health", "/health/live", "/metrics", "/", "/docs", "/openapi.json"):
            assert buyer.get(path).status_code == 200
        # All routes but the stream, which does not end.
        assert buyer.succeeded == ALL - {("GET", "/events/{eventId}/stream")}


def test_a_message_of_the_stream_matches_the_description(client: Client, description: Json) -> None:
    event = client.create_event(name="Watched")
    described = operations(description)["GET", "/events/{eventId}/stream"]["responses"]["200"]
    ((media_type, content),) = described["content"].items()
    with client.stream("GET", f"/events/{event}/stream") as stream:
        assert stream.headers["Content-Type"].partition(";")[0] == media_type
        assert described["headers"].keys() <= {name.title() for name in stream.headers}
        lines = [line for line, _ in zip(stream.iter_lines(), range(3), strict=False)]
    message = dict(line.split(": ", 1) for line in lines[1:])
    check(description, content["schema"], message)
    schema = content["schema"]["properties"]["data"]["contentSchema"]
    for data in (message["data"], content["example"]["data"]):
        check(forbid_other_fields(description), schema, json.loads(data))


def test_the_policy_of_the_docs_allows_only_the_service(client: Client) -> None:
    page = client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    # The policy allows the script of the page and no other.
    (script,) = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.partition("script-src")[2] == f" 'sha256-{digest}'"
    assert not re.search(r"\w://|[\"'=(]//|\bsrc=|<link|@import|innerHTML", page.text)


def test_the_description_follows_the_settings(database: Database, start: Starter) -> None:
    with start(database, max_tickets_per_request=3).client() as client:
        description = client.get("/openapi.json").json()
    reserve = operations(description)["POST", "/events/{eventId}/tickets"]
    body = resolve(description, reserve["requestBody"]["content"]["application/json"]["schema"])
    assert body["properties"]["quantity"]["maximum"] == 3
    # Without a token everybody may organize.
    assert "securitySchemes" not in description["components"]
    assert description["security"] == []
    text = json.dumps(description)
    for kind, components in description["components"].items():
        for name in components:
            assert f'"#/components/{kind}/{name}"' in text, "it is used nowhere"
    for operation in operations(description).values():
        assert "security" not in operation
        assert "401" not in operation["responses"]
