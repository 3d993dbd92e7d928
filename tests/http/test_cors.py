"""CORS: CORS_ORIGINS sets which origins may call the service from a browser."""

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import Starter

SHOP, OTHER = "https://shop.example", "https://other.example"


def preflight(client: Client, origin: str, method: str, *headers: str) -> dict[str, str]:
    """Send a preflight request and return the response's headers; {} for a refusal."""
    response = client.options(
        "/events/018f0000-0000-7000-8000-000000000001/tickets",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            **({"Access-Control-Request-Headers": ",".join(headers)} if headers else {}),
        },
    )
    if response.status_code != 200:
        assert code(response) == (400, "BAD_REQUEST")
        return {}
    return dict(response.headers)


def test_no_other_origin_may_call_without_the_setting(client: Client) -> None:
    response = client.get("/events", headers={"Origin": SHOP})
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers
    headers = {"Origin": SHOP, "Access-Control-Request-Method": "GET"}
    assert code(client.options("/events", headers=headers)) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
def test_a_listed_origin_may_use_every_method(
    database: Database, start: Starter, method: str
) -> None:
    with start(database, cors_origins=f"{SHOP}, http://localhost:3000").client() as client:
        headers = preflight(
            client,
            SHOP,
            method,
            "content-type",
            "idempotency-key",
            "x-user-fingerprint",
            "authorization",
        )
        assert headers["access-control-allow-origin"] == SHOP
        assert method in headers["access-control-allow-methods"]
        assert "Origin" in headers["vary"]


def test_only_a_listed_origin_may_read_a_response_or_a_refusal(
    database: Database, start: Starter
) -> None:
    with start(database, cors_origins=SHOP).client() as client:
        for path in ("/events", "/nowhere"):
            response = client.get(path, headers={"Origin": SHOP})
            assert response.headers["Access-Control-Allow-Origin"] == SHOP
            exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"Idempotency-Replayed", "Retry-After", "Date"} <= set(exposed)
            assert response.headers["Vary"] == "Origin"
            response = client.get(path, headers={"Origin": OTHER})
            assert "Access-Control-Allow-Origin" not in response.headers
        assert preflight(client, OTHER, "GET") == {}
        assert preflight(client, SHOP, "PUT") == {}
        assert preflight(client, SHOP, "GET", "x-other") == {}


def test_the_setting_may_allow_every_origin(database: Database, start: Starter) -> None:
    with start(database, cors_origins="*").client() as client:
        assert preflight(client, OTHER, "POST")["access-control-allow-origin"] == "*"
        response = client.get("/events", headers={"Origin": OTHER})
        assert response.headers["Access-Control-Allow-Origin"] == "*"
