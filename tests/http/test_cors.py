"""CORS: a browser is told whose pages may call the service, by a setting."""

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter

SHOP, OTHER = "https://shop.example", "https://other.example"


def preflight(client: Client, origin: str, method: str, *headers: str) -> dict[str, str]:
    """Ask as a browser does before it sends a request, and return what it is told."""
    answer = client.options(
        "/events/018f0000-0000-7000-8000-000000000001/tickets",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            **({"Access-Control-Request-Headers": ",".join(headers)} if headers else {}),
        },
    )
    if answer.status_code != 200:
        assert code(answer) == (400, "BAD_REQUEST")
        return {}
    return dict(answer.headers)


def test_without_the_setting_no_page_may(client: Client) -> None:
    answer = client.get("/events", headers={"Origin": SHOP})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "GET"}
    assert code(client.options("/events", headers=asked)) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
def test_a_page_of_a_named_origin_may(database: Database, start: Starter, method: str) -> None:
    with start(database, cors_origins=f"{SHOP}, http://localhost:3000").client() as client:
        told = preflight(
            client,
            SHOP,
            method,
            "content-type",
            "idempotency-key",
            "x-user-fingerprint",
            "authorization",
        )
        assert told["access-control-allow-origin"] == SHOP
        assert method in told["access-control-allow-methods"]
        assert "Origin" in told["vary"]


def test_an_answer_and_a_refusal_are_shown_to_its_origin_alone(
    database: Database, start: Starter
) -> None:
    with start(database, cors_origins=SHOP).client() as client:
        for path in ("/events", "/nowhere"):
            answer = client.get(path, headers={"Origin": SHOP})
            assert answer.headers["Access-Control-Allow-Origin"] == SHOP
            shown = answer.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"Idempotency-Replayed", "Retry-After", "Date"} <= set(shown)
            assert answer.headers["Vary"] == "Origin"
            answer = client.get(path, headers={"Origin": OTHER})
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert preflight(client, OTHER, "GET") == {}
        assert preflight(client, SHOP, "PUT") == {}
        assert preflight(client, SHOP, "GET", "x-other") == {}


def test_any_page_may_where_that_is_set(database: Database, start: Starter) -> None:
    with start(database, cors_origins="*").client() as client:
        assert preflight(client, OTHER, "POST")["access-control-allow-origin"] == "*"
        answer = client.get("/events", headers={"Origin": OTHER})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
