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

# The page's elements are globals by their ids.
IS_HELD = "window.held?.hidden === false && /^1[45]:[0-9]{2}$/.test(left.textContent)"


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
            page.wait_for("told.textContent === 'Bought.'")

            page.click("#reserve")
            page.wait_for(IS_HELD)
            page.click("#back")
            page.wait_for("told.textContent === 'Given back.'")

            page.value("quantity.value = 3")
            page.click("#reserve")
            page.wait_for("told.textContent.startsWith('There are not so many left')")
            assert page.value("held.hidden && !choose.hidden")

            assert page.console_errors == []
            counts = client.find_event(event)
            assert (counts["purchasedTickets"], counts["availableTickets"]) == (2, 1)
        assert page.requested_hosts() == {
            service.url.removeprefix("http://"),
            origin.removeprefix("http://"),
        }
