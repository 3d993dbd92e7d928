"""Examples: the checkouts of docs/examples sell, wait, and tell every refusal there is."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Thread
from types import ModuleType
from typing import Any, Protocol

import httpx2
import pytest
from psycopg.conninfo import conninfo_to_dict

from service import limits
from tests.between import Between
from tests.described import answers_of, operations
from tests.harness import (
    RUN_LOG,
    WAIT_SECONDS,
    Client,
    Database,
    RunningService,
    Starter,
    at_once,
    wait_until,
)

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium")
UNKNOWN = "018f0000-0000-7000-8000-000000000001"

ASKED = {
    ("POST", "/events/{id}/tickets"),
    ("GET", "/reservations/{id}"),
    ("POST", "/reservations/{id}/payment"),
    ("DELETE", "/reservations/{id}"),
}
"""The routes that a checkout goes by."""

EVENT_SOURCE = "--experimental-eventsource"
"""What Node has an EventSource with, from 20.18 on."""


def node_is() -> tuple[int, bool]:
    """Return Node's major version, 0 for none, and whether it has an EventSource."""
    if NODE is None:
        return 0, False
    known = f"process.allowedNodeEnvironmentFlags.has('{EVENT_SOURCE}')"
    asked = f"JSON.stringify([parseInt(process.versions.node), {known}])"
    told = subprocess.run([NODE, "-p", asked], capture_output=True, text=True, check=True)
    version, is_known = json.loads(told.stdout)
    return version, is_known


NODE_VERSION, HAS_EVENT_SOURCE = node_is()
with_node = pytest.mark.skipif(NODE_VERSION < 20, reason="there is no node 20 or newer")


class Clock:
    """A clock that says 1970, and waits for nobody while its time goes on."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def time(self) -> float:
        """Return the time of day, which is wrong."""
        return 0.0

    def monotonic(self) -> float:
        """Return a time that only grows."""
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        """Wait for a small part of what is asked for."""
        self._skipped += seconds
        time.sleep(seconds / 50)


def loaded() -> ModuleType:
    """Return docs/examples/checkout.py as a module of its own, with a clock of its own."""
    spec = importlib.util.spec_from_file_location("checkout", EXAMPLES / "checkout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["checkout"] = module
    spec.loader.exec_module(module)
    vars(module)["time"] = Clock()
    return module


class InPython:
    """A checkout in Python; its order lies in a folder."""

    def __init__(self, url: str, event: str, folder: Path) -> None:
        self._module = loaded()
        self._file = folder / "order.json"
        self._event = event
        self._service = httpx2.Client(base_url=url, timeout=WAIT_SECONDS)
        self._checkout: Any = None
        self.waited: list[str] = []
        """With which codes it was told to wait."""
        self.told: dict[str, str] = self._module.TOLD
        """What it tells of each code."""

    def do(self, verb: str, *arguments: int) -> str:
        """Do one thing, and return the order's status, or the code with which it was refused."""
        try:
            if verb == "reserve":
                order = self._module.Order.open(self._file, self._event, *arguments)
                self._checkout = self._module.Checkout(
                    self._service, order, lambda refused: self.waited.append(refused.code)
                )
                self._checkout.reserve()
            else:
                getattr(self._checkout, verb)()
        except self._module.Refused as refused:
            return str(refused.code)
        return str(self.reservation["status"])

    @property
    def reservation(self) -> dict[str, Any]:
        """As the checkout knows it."""
        found: dict[str, Any] = self._checkout.reservation
        return found

    @property
    def seconds_left(self) -> float:
        """The time that it shows."""
        return float(self._checkout.seconds_left())

    @property
    def kept(self) -> dict[str, Any]:
        """What it has written down."""
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    def forge(self, **changes: Any) -> None:
        """Change what it has written down."""
        self._file.write_text(json.dumps(self.kept | changes))
        for name, value in changes.items():
            setattr(self._checkout._order, name, value)

    def close(self) -> None:
        """End it as a crash would."""
        self._service.close()


class InNode:
    """A checkout in JavaScript, in a process of its own; what a browser keeps lies in a file."""

    def __init__(self, url: str, event: str, folder: Path) -> None:
        self._event = event
        self._file = folder / "storage.json"
        if not self._file.exists():
            self._file.write_text("{}")
        assert NODE is not None
        self._process = subprocess.Popen(
            [
                *(NODE, "--no-warnings", *([EVENT_SOURCE] if HAS_EVENT_SOURCE else [])),
                *(str(ROOT / "tests" / "checkout.mjs"), url, event, str(self._file)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: Queue[dict[str, Any]] = Queue()
        self.waited: list[str] = []
        self.seen: list[dict[str, Any]] = []
        """What a stream has told."""
        Thread(target=self._listen, daemon=True).start()
        self.told: dict[str, str] = self._answers.get(timeout=WAIT_SECONDS)["told"]
        self.reservation: dict[str, Any] = {}

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):
            for line in self._process.stdout:
                told = json.loads(line)
                if "waiting" in told:
                    self.waited.append(told["waiting"])
                elif "seen" in told:
                    self.seen.append(told["seen"])
                else:
                    self._answers.put(told)

    def tell(self, *words: str | int) -> None:
        """Have it do one thing."""
        assert self._process.stdin is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)

    def do(self, verb: str, *arguments: int) -> str:
        """Do one thing, and return the order's status, or the code with which it was refused."""
        self.tell("giveBack" if verb == "give_back" else verb, *arguments)
        self.reservation = self._answers.get(timeout=WAIT_SECONDS)
        return str(self.reservation["code"] or self.reservation["status"])

    @property
    def seconds_left(self) -> float:
        """The time that it shows."""
        return float(self.reservation["left"])

    @property
    def kept(self) -> dict[str, Any]:
        """What it has written down."""
        found = json.loads(self._file.read_text())
        return {"fingerprint": found["fingerprint"], **json.loads(found[f"order {self._event}"])}

    def forge(self, **changes: Any) -> None:
        """Change what it has written down."""
        kept = self.kept | changes
        fingerprint = kept.pop("fingerprint")
        order = {f"order {self._event}": json.dumps(kept)}
        self._file.write_text(json.dumps({"fingerprint": fingerprint, **order}))

    def close(self) -> None:
        """End it as a crash would."""
        if self._process.returncode is not None:
            return
        self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Buyers(Protocol):
    """What the fixture ``buyer`` is."""

    def __call__(self, event: str, url: str = "", name: str = "alice") -> InPython | InNode:
        """Give a buyer; one of the same name goes on with what was written down."""


@pytest.fixture(params=[InPython, pytest.param(InNode, marks=with_node)])
def buyer(
    request: pytest.FixtureRequest, service: RunningService, tmp_path: Path
) -> Iterator[Buyers]:
    """Makes buyers of one language, at the service of the test."""
    made: list[InPython | InNode] = []

    def make(event: str, url: str = "", name: str = "alice") -> InPython | InNode:
        (tmp_path / name).mkdir(exist_ok=True)
        one: InPython | InNode = request.param(url or service.url, event, tmp_path / name)
        made.append(one)
        return one

    yield make
    for one in made:
        with suppress(OSError, KeyError):
            RUN_LOG.fingerprints.add(one.kept["fingerprint"])
        one.close()


class Told(Between):
    """A proxy that takes down which routes are asked for."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        super().__init__((host, int(port)))
        self.asked: set[tuple[str, str]] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def _ask(self, near: Any, far: Any) -> None:
        class Near:
            """What is read from it is looked at."""

            def recv(_, size: int) -> bytes:  # noqa: N805
                return self.read(near.recv(size))

        super()._ask(Near(), far)  # type: ignore[arg-type]

    def read(self, data: bytes) -> bytes:
        """Look at what goes to the service."""
        for method, path in re.findall(r"^([A-Z]+) (\S+) HTTP/1.1\r$", data.decode(), re.M):
            self.asked.add((method, re.sub(r"[0-9a-f-]{36}", "{id}", path)))
        return data


class Mangled(Told):
    """A proxy that spoils the type of what is sent."""

    def read(self, data: bytes) -> bytes:
        """Change what goes to the service."""
        return data.replace(b"application/json", b"application/jsom")


def test_a_sale_goes_from_the_first_request_to_the_last_ticket(
    client: Client, service: RunningService, buyer: Buyers
) -> None:
    event = client.create_event(tickets=3)
    with Told(service.url) as between:
        alice = buyer(event, between.url)
        assert alice.do("reserve", 2) == "reserved"
        assert client.event(event)["reservedTickets"] == 2
        assert alice.do("look") == "reserved"
        assert alice.do("pay") == "purchased"
        bob = buyer(event, between.url, "bob")
        assert bob.do("reserve", 1) == "reserved"
        assert bob.do("give_back") == "user_cancelled"
    assert between.asked == ASKED
    left = client.event(event)
    assert (left["purchasedTickets"], left["availableTickets"]) == (2, 1)
    assert alice.waited == bob.waited == []


def test_the_time_left_is_the_services_whatever_the_clock_here_says(
    client: Client, buyer: Buyers
) -> None:
    alice = buyer(client.create_event())
    alice.do("reserve", 1)
    assert 0 < alice.seconds_left < 900


@pytest.mark.parametrize("paid", [False, True])
def test_whoever_was_killed_goes_on_with_the_same_tickets(
    client: Client, buyer: Buyers, paid: bool
) -> None:
    event = client.create_event(tickets=2)
    alice = buyer(event)
    alice.do("reserve", 2)
    if paid:
        alice.do("pay")
    alice.close()
    again = buyer(event)
    assert again.do("reserve", 2) == ("purchased" if paid else "reserved")
    assert again.reservation["id"] == alice.reservation["id"]
    assert client.event(event)["allocatedTickets"] == 2
    if not paid:
        assert 0 < again.seconds_left < 900
        assert again.do("pay") == "purchased"


def test_what_has_lapsed_is_not_paid_for_and_a_new_order_is_free_to_have_it(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(tickets=1)
    alice = buyer(event)
    alice.do("reserve", 1)
    (ticket,) = client.user_tickets(alice.kept["fingerprint"]).json()["data"]
    database.lapse(ticket["id"])
    assert alice.do("look") == "HOLD_EXPIRED"
    assert alice.do("pay") == "HOLD_EXPIRED"
    assert alice.do("reserve", 1) == "HOLD_EXPIRED"
    assert buyer(event, name="bob").do("reserve", 1) == "reserved"


def test_busy_is_waited_out_and_never_told_as_sold_out(
    client: Client, database: Database, buyer: Buyers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOCK_SECONDS", 0.05)
    event = client.create_event(tickets=1)
    alice = buyer(event)
    with ThreadPoolExecutor(1) as pool:
        with database.holding(event):
            reserving = pool.submit(alice.do, "reserve", 1)
            wait_until(lambda: "BUSY" in alice.waited)
        assert reserving.result() == "reserved"
    assert set(alice.waited) == {"BUSY"}


def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_done_twice(
    client: Client, service: RunningService, buyer: Buyers
) -> None:
    event = client.create_event(tickets=9)
    with ThreadPoolExecutor(1) as pool, Told(service.url) as between:

        def lost(one: InPython | InNode, verb: str, *arguments: int) -> str:
            before = between.lost
            between.losing_answers = True
            doing = pool.submit(one.do, verb, *arguments)
            between.wait_until_lost(before + 1)
            between.losing_answers = False
            return doing.result()

        alice = buyer(event, between.url)
        assert lost(alice, "reserve", 2) == "reserved"
        assert lost(alice, "pay") == "purchased"
        bob = buyer(event, between.url, "bob")
        assert lost(bob, "reserve", 3) == "reserved"
        assert lost(bob, "give_back") == "user_cancelled"
    assert {*alice.waited, *bob.waited} == {"OUTCOME_UNKNOWN"}
    left = client.event(event)
    assert (left["purchasedTickets"], left["allocatedTickets"]) == (2, 2)


def test_what_nobody_knows_is_asked_for_again_with_the_same_key(
    database: Database, start: Starter, buyer: Buyers
) -> None:
    parts = conninfo_to_dict(database.dsn)
    with Between(str(Path(str(parts["host"])) / ".s.PGSQL.5432")) as between:
        far = f"postgresql://holdfast@127.0.0.1:{between.port}/{parts['dbname']}"
        service = start(Database(f"{far}?sslmode=disable&gssencmode=disable"), sweeps=False)
        with service.client() as client, ThreadPoolExecutor(1) as pool:
            event = client.create_event(tickets=5)
            client.hold(event)  # now there is a connection that knows the statements
            alice = buyer(event, service.url)
            between.losing_answers = True
            reserving = pool.submit(alice.do, "reserve", 2)
            wait_until(lambda: alice.waited != [])
            between.losing_answers = False
            assert reserving.result() == "reserved"
            assert alice.waited[0] == "OUTCOME_UNKNOWN"
            assert client.event(event)["allocatedTickets"] == 3
        service.stop()


def test_a_service_that_is_gone_is_not_asked_for_ever_and_the_order_is_kept(
    client: Client, buyer: Buyers, unused_port: int
) -> None:
    event = client.create_event(tickets=2)
    gone = buyer(event, f"http://127.0.0.1:{unused_port}")
    assert gone.do("reserve", 2) == "OUTCOME_UNKNOWN"
    begun = gone.kept
    alice = buyer(event)
    assert alice.do("reserve", 2) == "reserved"
    assert alice.kept == begun


def cause(code: str, client: Client, event: str, alice: InPython | InNode) -> str:
    """Bring a refusal about, mostly by another hand, and return the code that was told."""
    if code in ("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS"):
        client.hold(event, 3 if code == "TICKETS_SOLD_OUT" else 2)
    if code in ("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS", "NOT_FOUND", "UNSUPPORTED_MEDIA_TYPE"):
        return alice.do("reserve", 2)
    if code == "BAD_REQUEST":
        return alice.do("reserve", 11)
    alice.do("reserve", 2)
    forged: dict[str, dict[str, Any]] = {
        "IDEMPOTENCY_KEY_REUSED": {"quantity": 3},
        "PAYLOAD_TOO_LARGE": {"fingerprint": "a" * 70_000},
        "WRONG_FINGERPRINT": {"fingerprint": "another-hand"},
    }
    if code in forged:
        alice.forge(**forged[code])
        return alice.do("reserve", 3) if code == "IDEMPOTENCY_KEY_REUSED" else alice.do("pay")
    owner = alice.kept["fingerprint"]
    ticket = client.user_tickets(owner).json()["data"][0]["id"]
    if code == "ALREADY_CANCELLED":
        client.cancel(ticket, owner)
    else:
        client.pay(ticket, owner)
    if code == "ALREADY_REFUNDED":
        client.refund(ticket)
    return alice.do("pay")


def test_every_refusal_is_told(client: Client, service: RunningService, buyer: Buyers) -> None:
    for code in (
        *("BAD_REQUEST", "NOT_FOUND", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"),
        *("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS", "IDEMPOTENCY_KEY_REUSED"),
        *("WRONG_FINGERPRINT", "ALREADY_PURCHASED", "ALREADY_CANCELLED", "ALREADY_REFUNDED"),
    ):
        event = client.create_event(tickets=3, name=code)
        with (Mangled if code == "UNSUPPORTED_MEDIA_TYPE" else Told)(service.url) as between:
            alice = buyer(UNKNOWN if code == "NOT_FOUND" else event, between.url, name=code)
            assert cause(code, client, event, alice) == code
            assert alice.waited == []
            alice.close()


def test_a_bug_of_the_service_is_told_and_the_order_kept(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(tickets=3)
    client.hold(event)  # now there is a connection that knows the statements
    alice = buyer(event)
    database.psql("alter table ticket_allocations rename column position to place")
    assert alice.do("reserve", 1) == "INTERNAL_SERVER_ERROR"
    database.psql("alter table ticket_allocations rename column place to position")
    assert alice.do("reserve", 1) == "reserved"
    assert alice.waited == []


def test_what_is_told_is_told_of_every_code_there_is_and_of_no_other(
    client: Client, buyer: Buyers
) -> None:
    told = client.get("/openapi.json").json()
    routes = operations(told)
    codes = {code for asked in ASKED for _, code in answers_of(told, routes[asked]) if code}
    assert set(buyer(UNKNOWN).told) == codes


@with_node
def test_both_tell_the_same(service: RunningService, tmp_path: Path) -> None:
    javascript = InNode(service.url, UNKNOWN, tmp_path)
    assert javascript.told == loaded().TOLD
    javascript.close()


@pytest.mark.skipif(not HAS_EVENT_SOURCE, reason="there is no node with an EventSource")
def test_whoever_watches_sees_what_others_do_also_after_the_stream_was_refused(
    client: Client, service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = client.create_event()
    refused: list[int] = []

    class Full(int):
        """Nobody may watch, until somebody has been refused."""

        def __le__(self, count: int) -> bool:
            refused.append(count)
            return len(refused) == 1

    monkeypatch.setattr(limits, "MAX_WATCHERS", Full())
    page = InNode(service.url, event, tmp_path)
    page.tell("watch")
    wait_until(lambda: bool(page.seen))
    client.hold(event, 3)
    wait_until(lambda: page.seen[-1]["availableTickets"] == 7)
    page.close()
    assert len(refused) == 2


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


@contextmanager
def command(folder: Path, event: str, url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the checkout as its document says."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "checkout.py"), event, "--url", url, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], keys: str = "") -> str:
    """Return all that a command has said when it has ended."""
    return process.communicate(keys, timeout=WAIT_SECONDS)[0]


def test_a_command_that_is_killed_while_it_waits_for_its_answer_has_its_tickets_the_next_time(
    client: Client, database: Database, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    buy = partial(command, tmp_path, event, service.url, "--quantity", "2")
    with database.holding(event), buy() as process:
        service.wait_until_accepted(1)
        process.kill()
        process.wait()
    service.wait_until_accepted(0)
    assert client.event(event)["reservedTickets"] == 2
    with buy() as process:
        assert said(process, "\n").endswith("bought\n")
    with buy() as process:
        assert said(process).endswith("bought\n")
    assert client.event(event)["allocatedTickets"] == 2


def test_a_command_that_is_refused_says_why(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "order.json"
    asked = ["checkout.py", UNKNOWN, "--url", service.url, "--order", str(order)]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit, match="NOT_FOUND: There is no such event"):
        loaded().main()
    monkeypatch.setattr(sys, "argv", [*asked, "--quantity", "2"])
    with pytest.raises(SystemExit, match=f"is another order, of 1 for {UNKNOWN}"):
        loaded().main()


def test_a_command_that_is_interrupted_gives_back(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    with command(tmp_path, event, service.url) as process:
        assert process.stdout is not None
        while "held for" not in process.stdout.read(20):
            pass
        process.send_signal(signal.SIGINT)
        assert said(process).endswith("given back\n")
    assert client.event(event)["availableTickets"] == 4


def test_an_order_that_two_begin_at_once_is_one(tmp_path: Path) -> None:
    module = loaded()
    begin = partial(module.Order.open, tmp_path / "order.json", UNKNOWN, 1)
    assert len({order.key for order in at_once(*[begin] * 8)}) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["order.json"]
    assert (tmp_path / "order.json").stat().st_mode & 0o077 == 0
