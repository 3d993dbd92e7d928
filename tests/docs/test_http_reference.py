"""The HTTP reference lists every route and response of the OpenAPI description."""

import json
import re

import pytest

from service.web.openapi import describe
from service.web.responses import encode
from service.web.routes import ROUTES
from tests.support.api_description import operations, responses_of
from tests.support.client import Client
from tests.support.paths import DOCS
from tests.support.services import settings_for_tests

PAGE = (DOCS / "reference" / "http.md").read_text()
ROWS = {
    (match[1], match[2]): match[0]
    for match in re.finditer(r"^\| `([A-Z]+) (/[^?`]*)[?`].*$", PAGE, re.MULTILINE)
}
DESCRIPTION = json.loads(encode(describe(ROUTES, settings_for_tests(organizer_token="secret"))))
OPERATIONS = operations(DESCRIPTION)
SCHEMAS = DESCRIPTION["components"]["schemas"]

# The refusals that routes share are listed once, below "## Refusals".
SHARED_CODES = {
    *("BAD_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "METHOD_NOT_ALLOWED", "PAYLOAD_TOO_LARGE"),
    *(
        "UNSUPPORTED_MEDIA_TYPE",
        "MISDIRECTED_REQUEST",
        "BUSY",
        "OUTCOME_UNKNOWN",
        "INTERNAL_SERVER_ERROR",
    ),
}
SHARED_STATUSES = {400, 401, 405, 413, 415, 421, 500, 503}


def test_the_page_has_a_row_for_every_route() -> None:
    assert set(ROWS) == set(OPERATIONS)


@pytest.mark.parametrize("route", OPERATIONS)
def test_the_row_of_a_route_matches_the_description(route: tuple[str, str]) -> None:
    row, operation = ROWS[route], OPERATIONS[route]
    responses = responses_of(DESCRIPTION, operation)
    codes = {code for _, code in responses} - SHARED_CODES - {""}
    assert set(re.findall("`([A-Z_]{4,})`", row)) == codes
    statuses = {int(status) for status in re.findall(r"\b[2-5]\d\d\b", row)}
    assert statuses ^ {status for status, _ in responses} <= SHARED_STATUSES

    parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
    for name, default in re.findall(r"[?&](\w+)=(\w*)", row):
        assert str(parameters[name]["schema"].get("default", "")) == default, name
    assert [name for name in parameters if not re.search(rf"\b{name}\b", row)] == []

    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = SCHEMAS.get(body.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
    fields = "{" + ", ".join(schema.get("properties", {})) + "}"
    assert re.findall(r"`(\{.*\})`", row.split("|")[1]) == ([fields] if body else [])
    assert ("(O)" in row) == ("security" in operation)


def test_the_page_lists_the_refusals_that_routes_share() -> None:
    section = PAGE.partition("## Refusals")[2]
    assert [code for code in SHARED_CODES if f"`{code}`" not in section] == []


@pytest.mark.parametrize("name", ["Event", "Ticket", "Reservation", "LedgerEntry"])
def test_the_page_lists_the_fields_of_a_response(name: str) -> None:
    fields = [field for field in SCHEMAS[name]["properties"] if field != "userFingerprint"]
    text = " ".join(PAGE.split()).replace("tickets: [Ticket]", "tickets")
    assert "`{" + ", ".join(fields) + "}`" in text


def test_the_page_lists_the_checks_of_an_audit(client: Client) -> None:
    section = PAGE.partition("## The checks of an audit")[2].partition("\n## ")[0]
    checks = client.check_event(client.create_event()).json()["checks"]
    listed = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    assert sorted(listed) == [check["name"] for check in checks]
