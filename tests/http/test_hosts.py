"""The header Host: one, and a name that the service has."""

import socket

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.sockets import read_all, statuses

REBOUND = "rebound.example"


def send(service: RunningService, *lines: str, request: str = "GET /health/live") -> int:
    """Send a request with exactly these header lines, and return the status."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = [f"{request} HTTP/1.1", *lines, "Connection: close", "", ""]
        connection.sendall("\r\n".join(head).encode())
        (status,) = statuses(read_all(connection))
    return status


@pytest.mark.parametrize("path", ["/health/live", "/events", "/nowhere"])
def test_a_request_has_exactly_one_host(service: RunningService, path: str) -> None:
    request = f"GET {path}"
    assert send(service, request=request) == 400
    assert send(service, "Host: localhost", "Host: localhost", request=request) == 400
    assert send(service, "Host: localhost", request=request) == (404 if "no" in path else 200)


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "[::1]:80", "127.0.0.1:1"]
)
def test_a_service_on_loopback_has_the_loopback_names(service: RunningService, name: str) -> None:
    assert send(service, f"Host: {name}") == 200


@pytest.mark.parametrize(
    "name", [REBOUND, "localhost.rebound.example", "localhost@rebound.example", "[::2]", "", "::1"]
)
def test_a_page_on_a_rebound_name_cannot_organize(service: RunningService, name: str) -> None:
    """Its browser takes the name for the page's own origin, so nothing else would refuse it."""
    assert send(service, f"Host: {name}") == 421
    assert send(service, f"Host: {name}", request="POST /events") == 421


def test_the_refusal_names_the_setting(client: Client) -> None:
    response = client.get("/events", headers={"Host": REBOUND})
    assert code(response) == (421, "MISDIRECTED_REQUEST")
    assert "ALLOWED_HOSTS" in response.json()["error"]
    assert client.request("GET", "/events", headers={"Host": "localhost"}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"organizer_token": "secret"}, []),
        ({"host": "0.0.0.0"}, []),  # noqa: S104
        ({"allowed_hosts": "*"}, []),
        ({"allowed_hosts": "Shop.example, [::1]"}, ["localhost", REBOUND]),
        ({"allowed_hosts": "shop.example", "host": "0.0.0.0"}, ["localhost", REBOUND]),  # noqa: S104
    ],
)
def test_other_names_can_be_allowed(
    database: Database, start: Starter, settings: dict[str, str], refused: list[str]
) -> None:
    service = start(database, sweeps=False, **settings)
    assert send(service, "Host: shop.example") == 200
    for name in ("localhost", REBOUND):
        assert send(service, f"Host: {name}") == (421 if name in refused else 200), name


def test_a_preflight_request_has_an_allowed_host_too(database: Database, start: Starter) -> None:
    service = start(database, sweeps=False, cors_origins="*")
    preflight = ["Origin: https://shop.example", "Access-Control-Request-Method: GET"]
    assert send(service, "Host: localhost", *preflight, request="OPTIONS /events") == 200
    assert send(service, f"Host: {REBOUND}", *preflight, request="OPTIONS /events") == 421
    assert send(service, *preflight, request="OPTIONS /events") == 400
