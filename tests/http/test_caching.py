"""Caching: what a shared cache, such as a CDN, may store.

``test_ownership.py`` checks this for a success and a refusal of every route.
"""

from datetime import UTC, datetime

import pytest

from service.web.responses import EventState
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import Starter

UNKNOWN = "018f0000-0000-7000-8000-000000000001"


def test_an_unchanged_or_past_event_may_be_stored(client: Client) -> None:
    event = client.create_event()
    etag = client.get(f"/events/{event}").headers["ETag"]
    unchanged = client.get(f"/events/{event}", headers={"If-None-Match": etag})
    past = client.get(f"/events/{event}", params={"at": "2090-01-01T00:00:00Z"})
    assert (unchanged.status_code, past.status_code) == (304, 200)
    for response in (unchanged, past):
        assert response.headers["Cache-Control"] == "no-cache"


def test_etags_may_be_in_several_headers(client: Client) -> None:
    event = f"/events/{client.create_event()}"
    etag = client.get(event).headers["ETag"]

    def twice(name: str) -> list[tuple[str, str]]:
        return [(name, '"other"'), (name, etag)]

    assert client.get(event, headers=twice("If-None-Match")).status_code == 304
    renamed = client.patch(event, json={"name": "New"}, headers=twice("If-Match"))
    assert renamed.status_code == 200


def test_an_etag_has_every_part_of_the_state() -> None:
    state = EventState(3, 7, datetime(2030, 1, 1, tzinfo=UTC), "open")
    others = [
        state._replace(version=4),
        state._replace(available_tickets=8),
        state._replace(updated_at=datetime(2030, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        state._replace(sale_status="closed"),
    ]
    assert len({each.etag for each in (state, *others)}) == 5
    assert [EventState.parse(each.etag) for each in (state, *others)] == [state, *others]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        # A cache may store a 404, a 405 and a 410 on its own, without this header.
        ("GET", f"/events/{UNKNOWN}", 404),
        ("GET", f"/events/tickets/{UNKNOWN}", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/events", 405),
        ("GET", "/events?page=0", 400),
    ],
)
def test_a_refusal_of_a_public_route_may_not_be_stored(
    client: Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["Cache-Control"] == "no-store"


def test_a_ticket_varies_with_the_fingerprint_and_with_the_origin(
    database: Database, start: Starter
) -> None:
    with start(database, cors_origins="https://shop.example").client() as client:
        (ticket,) = client.hold(client.create_event())
        headers = {"Origin": "https://shop.example"}
        response = client.get(f"/events/tickets/{ticket}", headers=headers)
    assert response.headers.get_list("Vary", split_commas=True) == ["X-User-Fingerprint", "Origin"]
