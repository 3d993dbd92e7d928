"""Examples: the page of docs/examples sells in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.support.browser import Browser
from tests.support.checkouts import EXAMPLES
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.waiting import wait_until

# The page's elements are globals by their ids.
IS_HELD = "window.held?.hidden === false && /^1[45]:[0-9]{2}$/.test(left.textContent)"

# Headless Chromium has no window to hide, so the test overrides document.hidden.
SHOW = (
    "Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serve_examples() -> Iterator[str]:
    """Serve docs/examples, and yield the origin."""
    files = partial(QuietHandler, directory=str(EXAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_page_sells_in_a_browser_from_another_origin(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    with serve_examples() as origin:
        service = start(database, sweeps=False, cors_origins=origin)
        with service.client() as client, Browser(tmp_path) as page:
            event = client.create_event(tickets=3, name="Opening night")

            page.open(f"{origin}/checkout.html?service={service.url}&event={event}")
            page.wait_for("window.available?.textContent === '3'")
            assert page.value("document.getElementById('name').textContent") == "Opening night"

            page.value("quantity.value = 2")
            page.click("#reserve")
            page.wait_for(IS_HELD)
            page.wait_for("window.available?.textContent === '1'")

            # The hold is still there after a reload.
            page.value("window.before = true")
            page.call("Page.reload")
            page.wait_for(f"!window.before && {IS_HELD}")
            page.click("#pay")
            page.wait_for("message.textContent === 'Bought.'")

            page.click("#reserve")
            page.wait_for(IS_HELD)
            page.click("#cancel")
            page.wait_for("message.textContent === 'Given back.'")

            page.value("quantity.value = 3")
            page.click("#reserve")
            page.wait_for("message.textContent.startsWith('There are not enough tickets')")
            assert page.value("held.hidden && !choose.hidden")

            assert page.console_errors == []
            counts = client.find_event(event)
            assert (counts["purchasedTickets"], counts["availableTickets"]) == (2, 1)
        assert page.requested_hosts() == {
            service.url.removeprefix("http://"),
            origin.removeprefix("http://"),
        }


def test_a_hidden_page_closes_its_stream(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    with serve_examples() as origin:
        service = start(database, sweeps=False, cors_origins=origin)
        watchers = service.state.watchers
        with service.client() as client, Browser(tmp_path) as page:
            event = client.create_event(tickets=3)
            page.open(f"{origin}/checkout.html?service={service.url}&event={event}")
            page.wait_for("window.available?.textContent === '3'")
            page.value(SHOW.format(hidden="true"))
            wait_until(lambda: watchers.count == 0)
            client.hold(event)
            page.value(SHOW.format(hidden="false"))
            page.wait_for("available.textContent === '2'")
            assert watchers.count == 1
            assert page.console_errors == []


def test_a_page_without_an_event_says_what_is_missing(tmp_path: Path) -> None:
    with serve_examples() as origin, Browser(tmp_path) as page:
        page.open(f"{origin}/checkout.html")
        page.wait_for("window.message?.textContent.includes('Add ?event= and its id')")
        assert page.value("choose.hidden && stock.hidden && held.hidden")
        assert page.console_errors == []
