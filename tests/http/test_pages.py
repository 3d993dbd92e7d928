"""The pages in a real browser: every route can be tried, and no other host is contacted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import HTMLResponse

from service.web.handlers import docs
from tests.support.api_description import operations
from tests.support.browser import Browser
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService, Starter

TOKEN = "the-organizers-own-token"  # noqa: S105 - used by tests only
PAGE_IS_READY = "document.querySelectorAll('main > details').length > 0"
OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true"


def host(service: RunningService) -> str:
    return service.url.removeprefix("http://")


class Page(Browser):
    """The page /docs, on which every route can be tried."""

    def show(self, service: RunningService, fragment: str = "") -> None:
        """Open the page and wait until it has loaded the OpenAPI description."""
        self.open(f"{service.url}/docs{fragment}")
        self.wait_for(PAGE_IS_READY)

    def send(self, operation: str) -> str:
        """Press the button of an operation, and return the text shown when it is done."""
        self.click(f"#{operation} form button")
        self.wait_for(f"document.querySelector('#{operation} button[type=button]').hidden")
        return str(self.value(f"document.querySelector('#{operation} pre').textContent"))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser for the page; the console must show no error at the end."""
    with Page(tmp_path) as page:
        yield page
        assert page.console_errors == []


def test_the_box_office_links_a_page_of_all_routes_that_needs_no_other_host(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    with Page(tmp_path) as page:
        page.open(service.url)
        page.click("a[href=docs]")
        page.wait_for(PAGE_IS_READY)
        assert page.value("location.pathname") == "/docs"
        routes = page.value(
            "[...document.querySelectorAll('main > details > summary')]"
            ".map((summary) => ['b', 'code'].map((tag) => summary.querySelector(tag).textContent))"
        )
        described = operations(client.get("/openapi.json").json())
        assert sorted(map(tuple, routes)) == sorted(described)
        page.value(OPEN_ALL)
        text = page.value("document.querySelector('#findEvent').textContent")
        description = described["GET", "/events/{eventId}"]["description"]
        assert " ".join(description.replace("`", "").split()) in " ".join(text.split())
        assert '"status": "ok"' in page.send("checkHealth")
        assert f"curl -i '{service.url}/'\n\n200 OK" in page.send("showBoxOffice")
    assert page.console_errors == []
    assert page.requested_hosts() == {host(service)}


@pytest.mark.parametrize(
    "markup",
    [
        '<img src="http://asked.invalid/picture">',
        "<script>fetch('http://asked.invalid/figures').catch(() => {})</script>",
    ],
)
def test_the_browser_log_shows_a_request_to_another_host(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, markup: str
) -> None:
    # Without the Content-Security-Policy, which would stop the request before it is made.
    changed = HTMLResponse(docs.DOCS.replace("<h1>", f"{markup}<h1>"))
    monkeypatch.setattr(docs, "respond_page", lambda *_: changed)
    with Page(tmp_path) as page:
        page.show(service)
    assert page.requested_hosts() - {host(service)} in ({"asked.invalid"}, {"asked.invalid:80"})


def test_the_content_security_policy_blocks_other_hosts_and_scripts(
    service: RunningService, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = '<img src="http://asked.invalid/picture"><script>document.title = "Other"</script>'
    name = "Content-Security-Policy"
    policy = {name: client.get("/docs").headers[name]}
    changed = HTMLResponse(docs.DOCS.replace("<h1>", f"{forbidden}<h1>"), headers=policy)
    monkeypatch.setattr(docs, "respond_page", lambda *_: changed)
    with Page(tmp_path) as page:
        page.show(service)
        assert page.value("document.title") == "Holdfast"
    assert len(page.console_errors) == 2
    assert page.requested_hosts() == {host(service)}


def test_a_sale_needs_only_the_buttons_of_the_page(
    page: Page, service: RunningService, database: Database
) -> None:
    page.show(service)
    assert "201 Created" in page.send("createEvent")
    page.click("#createEvent a[href='#reserveTickets']")
    page.wait_for("document.querySelector('#reserveTickets').open")
    assert "201 Created" in page.send("reserveTickets")
    assert '"status": "purchased"' in page.send("payTicket")
    # A refusal is shown with its status, body and headers.
    refusal = page.send("cancelTicket")
    assert "409 Conflict" in refusal
    assert '"code": "ALREADY_PURCHASED"' in refusal
    assert "x-request-id: " in refusal
    assert '"purchasedTickets": 1' in page.send("findEvent")
    assert database.psql("select status, user_fingerprint from ticket_allocations") == [
        "purchased|alice"
    ]


def test_the_text_of_a_field_is_sent(page: Page, service: RunningService, client: Client) -> None:
    event = client.create_event()
    client.hold(event, quantity=2, user="bob")
    page.show(service, fragment="#listUserTickets")
    page.write("#listUserTickets [name='query.page']", "1")
    page.value("document.querySelector('#listUserTickets select').value = 'reserved'")
    page.write("#listUserTickets [name='header.X-User-Fingerprint']", "bob")
    text = page.send("listUserTickets")
    assert '"total": 2' in text
    # The request is shown as a curl command.
    assert text.startswith(f"curl -i '{service.url}/tickets?status=reserved&page=1' -H ")


def test_the_token_is_sent_only_where_needed_and_shown_nowhere(
    page: Page, database: Database, start: Starter
) -> None:
    page.show(start(database, organizer_token=TOKEN))
    assert '"code": "UNAUTHORIZED"' in page.send("createEvent")
    page.write("main > label input", TOKEN)
    assert "201 Created" in page.send("createEvent")
    assert "200 OK" in page.send("listEvents")
    text = str(page.value("document.querySelector('main').textContent"))
    assert TOKEN not in text
    assert text.count("Authorization: Bearer $ORGANIZER_TOKEN") == 1


def test_the_page_shows_a_stream_until_it_is_stopped(
    page: Page, service: RunningService, client: Client
) -> None:
    event = client.create_event()
    page.show(service, fragment="#streamEvent")
    page.write("#streamEvent [name='path.eventId']", event)
    page.click("#streamEvent form button")
    output = "document.querySelector('#streamEvent pre').textContent"
    page.wait_for(f"{output}.includes('\"created\"')")
    client.hold(event)
    page.wait_for(f"{output}.includes('\"reserved\"')")
    page.click("#streamEvent form button[type=button]")
    page.wait_for("document.querySelector('#streamEvent button[type=button]').hidden")


def test_the_page_works_with_the_keyboard_alone(page: Page, service: RunningService) -> None:
    page.show(service)
    page.value("document.querySelector('#createEvent > summary').focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('#createEvent').open")
    # Tab past X-Request-Id and the body to the button.
    for _ in range(3):
        page.press("Tab")
    page.press("Enter")
    page.wait_for("document.querySelector('#createEvent pre').textContent.includes('201')")


def test_the_page_fits_the_screen_of_a_phone(page: Page, service: RunningService) -> None:
    screen = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", **screen)
    page.show(service)
    page.value(OPEN_ALL)
    assert "201 Created" in page.send("createEvent")
    assert page.value("document.documentElement.scrollWidth") == 360
