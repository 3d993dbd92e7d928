"""Examples: the page of docs/examples sells in a browser."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Thread

import pytest

from tests.checkouts import EXAMPLES
from tests.harness import (
    WAIT_SECONDS,
    Database,
    Starter,
)

CHROMIUM = shutil.which("chromium")

PRESSED = """
<iframe id="shop" src="/checkout.html?service=SERVICE&event=EVENT"></iframe>
<script type="module">
  const shop = document.getElementById("shop");
  const at = (id) => shop.contentDocument.getElementById(id);
  const told = [];
  const tell = (all) => fetch("/told", { method: "POST", body: JSON.stringify(all) });
  async function until(holds) {
    for (let tries = 0; tries < 1500; tries++) {
      try { if (holds()) return; } catch {}
      await new Promise((done) => setTimeout(done, 10));
    }
    await tell(["waited in vain", String(holds), shop.contentDocument.body.innerText]);
  }
  const shows = (id, text) => until(() => at(id).textContent === text);
  const isHeld = () => !at("held").hidden && /^1[45]:[0-9]{2}$/.test(at("left").textContent);
  await shows("available", "3");
  at("quantity").value = 2;
  at("reserve").click();
  await until(isHeld);
  await shows("available", "1");
  told.push(at("name").textContent);
  const before = shop.contentDocument;
  shop.contentWindow.location.reload();
  await until(() => shop.contentDocument !== before && isHeld());
  at("pay").click();
  await shows("told", "Bought.");
  at("reserve").click();
  await until(isHeld);
  at("back").click();
  await shows("told", "Given back.");
  at("quantity").value = 3;
  at("reserve").click();
  await until(() => at("told").textContent.startsWith("There are not so many left"));
  told.push(at("choose").hidden, at("held").hidden);
  tell(told);
</script>
"""
"""A page that goes through checkout.html as a buyer does."""


@contextmanager
def shop(heard: "Queue[str]") -> Iterator[tuple[str, dict[str, str]]]:
    """Serve docs/examples, and pages of the test's own by their paths, at an origin."""
    pages: dict[str, str] = {}

    class Files(SimpleHTTPRequestHandler):
        """What the shop serves."""

        def do_GET(self) -> None:
            """Give a page or a file."""
            page = pages.get(self.path)
            if page is None:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self) -> None:
            """Hear what a page has to tell."""
            heard.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    files = partial(Files, directory=str(EXAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", pages
        server.shutdown()


@contextmanager
def browsing(url: str) -> Iterator[None]:
    """Have a page open in a browser."""
    assert CHROMIUM is not None
    with TemporaryDirectory(prefix="holdfast-chromium-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", f"--user-data-dir={folder}", url),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_the_page_sells_in_a_browser_at_an_origin_of_its_own(
    database: Database, start: Starter
) -> None:
    heard: Queue[str] = Queue()
    with shop(heard) as (origin, pages):
        service = start(database, sweeps=False, cors_origins=origin)
        with service.client() as client:
            event = client.create_event(tickets=3, name="Opening night")
            pages["/buy"] = PRESSED.replace("SERVICE", service.url).replace("EVENT", event)
            with browsing(f"{origin}/buy"):
                told = json.loads(heard.get(timeout=WAIT_SECONDS * 2))
            assert told == ["Opening night", False, True], told
            sold = client.event(event)
            assert (sold["purchasedTickets"], sold["availableTickets"]) == (2, 1)
