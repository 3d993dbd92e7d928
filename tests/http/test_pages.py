"""The pages, in a real browser: one reads and tries all of it, and they ask nobody but us."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import HTMLResponse

from service.web.handlers import docs
from tests.support.browser import Browser
from tests.support.client import Client
from tests.support.database import Database
from tests.support.described import operations
from tests.support.services import RunningService, Starter

TOKEN = "the-organizers-own-token"  # noqa: S105 - of these tests alone
ARE_SHOWN = "document.querySelectorAll('main > details').length > 0"


def host(service: RunningService) -> str:
    return service.url.removeprefix("http://")


def body_of(**fields: object) -> str:
    return json.dumps(fields)


class Page(Browser):
    """The page to try the service on."""

    def show(self, service: RunningService, at: str = "") -> None:
        """Go to it and wait until it has read the description."""
        self.open(f"{service.url}/docs{at}")
        self.wait_for(ARE_SHOWN)

    def send(self, operation: str) -> str:
        """Press the button of an operation, and return what is shown when it is through."""
        self.click(f"#{operation} form button")
        self.wait_for(f"document.querySelector('#{operation} button[type=button]').hidden")
        return str(self.value(f"document.querySelector('#{operation} pre').textContent"))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser for the page, in which no script fails and nothing forbidden is tried."""
    with Page(tmp_path) as page:
        yield page
        assert page.complaints == []


def test_the_root_leads_to_a_page_with_every_route_and_no_other_host_is_asked(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    with Page(tmp_path) as page:
        page.open(service.url)
        page.click("a[href=docs]")
        page.wait_for(ARE_SHOWN)
        assert page.value("location.pathname") == "/docs"
        shown = page.value(
            "[...document.querySelectorAll('main > details > summary')]"
            ".map((one) => ['b', 'code'].map((name) => one.querySelector(name).textContent))"
        )
        described = operations(client.get("/openapi.json").json())
        assert sorted(map(tuple, shown)) == sorted(described)
        page.value("for (const one of document.querySelectorAll('details')) one.open = true")
        assert '"status": "ok"' in page.send("checkHealth")
        assert f"curl -i '{service.url}/'\n\n200 OK" in page.send("showIndex")
    assert page.complaints == []
    assert page.addresses() == {host(service)}


@pytest.mark.parametrize(
    "asking",
    [
        '<img src="http://asked.invalid/picture">',
        "<script>fetch('http://asked.invalid/figures').catch(() => {})</script>",
    ],
)
def test_a_page_that_asked_another_host_would_be_found_out(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asking: str
) -> None:
    # Without its policy: what that forbids is not even looked for.
    changed = HTMLResponse(docs.DOCS.replace("<h1>", f"{asking}<h1>"))
    monkeypatch.setattr(docs, "_shown", lambda _: changed)
    with Page(tmp_path) as page:
        page.show(service)
    assert page.addresses() - {host(service)} in ({"asked.invalid"}, {"asked.invalid:80"})


def test_what_the_page_may_not_do_is_not_done(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = '<img src="http://asked.invalid/picture"><script>document.title = "Other"</script>'
    name = "Content-Security-Policy"
    policy = {name: docs._shown(docs.DOCS).headers[name]}
    changed = HTMLResponse(docs.DOCS.replace("<h1>", f"{bad}<h1>"), headers=policy)
    monkeypatch.setattr(docs, "_shown", lambda _: changed)
    with Page(tmp_path) as page:
        page.show(service)
        assert page.value("document.title") == "Holdfast"
    assert len(page.complaints) == 2
    assert page.addresses() == {host(service)}


def test_one_goes_through_a_sale_with_nothing_but_its_buttons(
    page: Page, service: RunningService, database: Database
) -> None:
    page.show(service)
    assert "201 Created" in page.send("createEvent")
    page.click("#createEvent a[href='#reserveTickets']")
    page.wait_for("document.querySelector('#reserveTickets').open")
    assert "201 Created" in page.send("reserveTickets")
    assert '"status": "purchased"' in page.send("payTicket")
    # A refusal is shown whole.
    refused = page.send("cancelTicket")
    assert "409 Conflict" in refused
    assert '"code": "ALREADY_PURCHASED"' in refused
    assert "x-request-id: " in refused
    assert '"purchasedTickets": 1' in page.send("findEvent")
    assert database.psql("select status, user_fingerprint from ticket_allocations") == [
        "purchased|alice"
    ]


def test_what_is_written_into_a_field_is_sent(
    page: Page, service: RunningService, client: Client
) -> None:
    event = client.create_event()
    client.hold(event, quantity=2, user="bob")
    page.show(service, at="#listUserTickets")
    page.write("#listUserTickets [name='query.page']", "1")
    page.value("document.querySelector('#listUserTickets select').value = 'reserved'")
    page.write("#listUserTickets [name='header.X-User-Fingerprint']", "bob")
    told = page.send("listUserTickets")
    assert '"total": 2' in told
    # The request is shown as one for a shell.
    assert told.startswith(f"curl -i '{service.url}/tickets?status=reserved&page=1' -H ")


def test_the_organizers_token_is_sent_where_it_is_asked_for_and_shown_nowhere(
    page: Page, database: Database, start: Starter
) -> None:
    page.show(start(database, organizer_token=TOKEN))
    assert '"code": "UNAUTHORIZED"' in page.send("createEvent")
    page.write("main > label input", TOKEN)
    assert "201 Created" in page.send("createEvent")
    assert "200 OK" in page.send("listEvents")
    told = str(page.value("document.querySelector('main').textContent"))
    assert TOKEN not in told
    assert told.count("Authorization: Bearer $ORGANIZER_TOKEN") == 1


def test_a_stream_is_shown_as_it_comes_until_it_is_stopped(
    page: Page, service: RunningService, client: Client
) -> None:
    event = client.create_event()
    page.show(service, at="#streamEvent")
    page.write("#streamEvent [name='path.id']", event)
    page.click("#streamEvent form button")
    shown = "document.querySelector('#streamEvent pre').textContent"
    page.wait_for(f"{shown}.includes('\"created\"')")
    client.hold(event)
    page.wait_for(f"{shown}.includes('\"reserved\"')")
    page.click("#streamEvent form button[type=button]")
    page.wait_for("document.querySelector('#streamEvent button[type=button]').hidden")


def test_it_is_used_with_the_keyboard_alone(page: Page, service: RunningService) -> None:
    page.show(service)
    page.value("document.querySelector('#createEvent > summary').focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('#createEvent').open")
    # Past X-Request-Id and the body, to the button.
    for _ in range(3):
        page.press("Tab")
    page.press("Enter")
    page.wait_for("document.querySelector('#createEvent pre').textContent.includes('201')")


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, service: RunningService) -> None:
    screen = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.ask("Emulation.setDeviceMetricsOverride", **screen)
    page.show(service)
    page.value("for (const one of document.querySelectorAll('details')) one.open = true")
    assert "201 Created" in page.send("createEvent")
    assert page.value("document.documentElement.scrollWidth") == 360
