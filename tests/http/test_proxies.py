"""Proxies: the configurations of docs/how-to/deploy, with the real nginx and the real HAProxy."""

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from service import limits
from service.settings import PACKAGE
from tests.support.client import Client, code, crowd
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.sockets import read_all, statuses
from tests.support.streams import watching
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until

DEPLOY = PACKAGE.parent / "docs" / "how-to" / "deploy"
SERVER = "server one 127.0.0.1:8000"
UNKNOWN = "018f0000-0000-7000-8000-000000000001"


class Proxy:
    """A program that stands before services, with the configuration that the docs have for it."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self.program = program
        self.folder = folder
        self.port = port
        self.path = folder / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[program]
        self.text = (DEPLOY / self.path.name).read_text()
        self.log = folder / "log"
        self._client = f"127.0.0.1:{port}"

    def change(self, what: str, into: str) -> None:
        """Change a line of the configuration, which must be there once."""
        lines = self.text.splitlines()
        (at,) = [number for number, line in enumerate(lines) if line.strip() == what]
        self.text = "\n".join([*lines[:at], into, *lines[at + 1 :], ""])

    def configure(self, *addresses: str) -> None:
        """Put ports and folders of the test's own in the place of the system's."""
        if self.program == "nginx":
            self.change("listen 80;", f"listen {self._client};")
            self.change("server 127.0.0.1:8000;", " ".join(f"server {one};" for one in addresses))
            self.change("pid /run/nginx.pid;", f"pid {self.folder}/pid;")
            self.change("error_log /var/log/nginx/error.log;", "error_log /dev/stderr;")
            self.change(
                "access_log /var/log/nginx/access.log combined;", "access_log /dev/stderr combined;"
            )
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
            self.change("http {", f"http {{\n{temporary}")
        else:
            self.change("bind :80", f"bind {self._client}")
            for line, rest in (
                (SERVER, ""),
                (f"{SERVER} track holdfast/one", " track holdfast/{}"),
            ):
                named = [(f"s{number}", one) for number, one in enumerate(addresses)]
                servers = [f"server {name} {one}{rest.format(name)}" for name, one in named]
                self.change(line, "\n".join(servers))
            self.change("log /dev/log local0", "log stderr format raw local0")
        if os.geteuid() != 0:  # it stays who it is
            self.text = re.sub(r"^ *(user|group) .*$", "", self.text, flags=re.M)

    @contextmanager
    def before(self, *addresses: str) -> Iterator[Client]:
        """Run it before services, and give a client that comes through it."""
        self.configure(*addresses)
        self.path.write_text(self.text)
        with self.log.open("w") as log:
            process = subprocess.Popen([*self.command, *self.in_foreground], stderr=log)
        try:
            with Client(base_url=f"http://{self._client}", timeout=WAIT_SECONDS) as client:
                wait_until(lambda: answers(client) or process.poll() is not None)
                assert process.poll() is None, self.log.read_text()
                yield client
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)

    @property
    def command(self) -> list[str]:
        """Its command line, but for what it is to do."""
        path = shutil.which(self.program, path=os.environ["PATH"] + ":/usr/sbin")
        assert path is not None
        if self.program == "nginx":
            return [path, "-p", str(self.folder), "-e", "/dev/stderr", "-c", str(self.path)]
        return [path, "-f", str(self.path)]

    @property
    def in_foreground(self) -> list[str]:
        """What keeps it a child of the test's."""
        return ["-g", "daemon off;"] if self.program == "nginx" else ["-db"]

    @property
    def for_a_check(self) -> list[str]:
        """What makes it only look at its configuration."""
        return ["-t"] if self.program == "nginx" else ["-c"]


def answers(client: Client) -> bool:
    try:
        socket.create_connection((client.base_url.host, client.base_url.port or 0)).close()
    except ConnectionRefusedError:
        return False
    return True


def address(service: RunningService) -> str:
    return service.url.removeprefix("http://")


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, folder: Path, unused_port: int) -> Proxy:
    """Each of the two; skipped where it is not installed."""
    if shutil.which(request.param, path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.skip(f"{request.param} is not installed: apt-get install {request.param}")
    return Proxy(request.param, folder, unused_port)


def test_the_configuration_is_understood_without_a_warning(proxy: Proxy) -> None:
    proxy.configure("127.0.0.1:8000")
    proxy.path.write_text(proxy.text)
    done = subprocess.run(
        [*proxy.command, *proxy.for_a_check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\[?warn", done.stdout + done.stderr, re.I), done.stderr


def test_a_sale_goes_through(proxy: Proxy, service: RunningService) -> None:
    with proxy.before(address(service)) as client:
        event = client.create_event(tickets=50)
        reserved = client.reserve(event, key="once")
        repeated = client.reserve(event, key="once")
        assert (reserved.status_code, repeated.status_code) == (201, 201)
        assert repeated.headers["Idempotency-Replayed"] == "true"
        ticket = reserved.json()[0]["id"]
        assert client.ticket(ticket, user="alice").json()["userFingerprint"] == "alice"
        assert client.pay(ticket).status_code == 200
        (other,) = client.hold(event)
        assert client.cancel(other).status_code == 200
        assert code(client.cancel(other)) == (409, "ALREADY_CANCELLED")
        sold = crowd([str(client.base_url).rstrip("/")], event, people=200, connections=40)
        assert sold == {(201, ""): 49, (409, "TICKETS_SOLD_OUT"): 151}
        etag = client.get(f"/events/{event}").headers["ETag"]
        answer = client.get(f"/events/{event}", headers={"If-None-Match": etag})
        assert answer.status_code == 304
    told = proxy.log.read_text()
    assert f"POST /events/{event}/tickets" in told
    assert "alice" not in told


def test_a_request_keeps_its_name_or_is_given_one(proxy: Proxy, service: RunningService) -> None:
    with proxy.before(address(service)) as client:
        named = client.get("/health/live", headers={"X-Request-Id": "mine"})
        assert named.headers["X-Request-Id"] == "mine"
        ours = [client.get("/health/live").headers["X-Request-Id"] for _ in range(2)]
        assert len(set(ours)) == 2
        # Not the service's own, whose names have a counter behind a dash.
        assert all(re.fullmatch(r"[0-9a-f]{32}|[0-9a-f-]{36}", name) for name in ours)


def test_a_stream_comes_as_it_is_sent(proxy: Proxy, service: RunningService) -> None:
    with proxy.before(address(service)) as client, service.client() as buyer:
        event = buyer.create_event()
        with watching(client, event) as stream:
            assert stream.message()["version"] == 1
            buyer.hold(event)
            assert stream.message()["version"] == 2
        buyer.hold(event)
        with watching(client, event, last_id=1) as stream:
            assert [stream.message()["version"] for _ in range(2)] == [2, 3]
        wait_until(lambda: service.state.watchers.count == 0)


def test_whose_header_is_slow_or_has_no_end_never_gets_to_the_service(
    proxy: Proxy, service: RunningService
) -> None:
    if proxy.program == "nginx":
        proxy.change("client_header_timeout 10s;", "client_header_timeout 1s;")
    else:
        proxy.change("timeout http-request 10s", "timeout http-request 1s")
    with proxy.before(address(service)) as client:
        client.get("/health/live")
        known = service.connections()
        slow = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(50)]
        for connection in slow:
            connection.settimeout(WAIT_SECONDS)
            connection.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nX: ")
        assert client.get("/health/live").status_code == 200
        # A health check may be there as well.
        assert service.connections() <= known + 2
        for connection in slow:
            assert statuses(read_all(connection)) in ([], [408])
            connection.close()
        assert client.get("/health/live", headers={"X": "x" * 40_000}).status_code in (400, 431)


def test_what_is_too_large_is_refused_in_the_services_words(
    proxy: Proxy, service: RunningService
) -> None:
    with proxy.before(address(service)) as client:
        for size in (65_537, 80_000, 1_000_000):
            answer = client.post(
                "/events", content=b"x" * size, headers={"Content-Type": "application/json"}
            )
            assert code(answer) == (413, "PAYLOAD_TOO_LARGE")


def test_who_asks_too_often_is_told_busy_and_others_are_served(
    proxy: Proxy, service: RunningService
) -> None:
    # The bound as it is would be met only by a machine that is fast enough.
    bound = {"nginx": "burst=400", "haproxy": "sc_http_req_rate(0) gt 400"}[proxy.program]
    assert proxy.text.count(bound) == 1
    proxy.text = proxy.text.replace(bound, bound.replace("400", "20"))
    with proxy.before(address(service)) as client:
        event = client.create_event()
        asked = [client.get(f"/events/{event}") for _ in range(300)]
        refused = [answer for answer in asked if answer.status_code != 200]
        assert refused
        assert {code(answer) for answer in refused} == {(503, "BUSY")}
        assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
        elsewhere = httpx2.HTTPTransport(local_address="127.0.0.2")
        with Client(base_url=client.base_url, transport=elsewhere) as other:
            assert other.reserve(event).status_code == 201


def test_the_metrics_are_not_for_the_world(proxy: Proxy, service: RunningService) -> None:
    ours = {"nginx": "allow 127.0.0.1;", "haproxy": " !{ src 127.0.0.0/8 ::1 }"}[proxy.program]
    assert proxy.text.count(ours) == 1
    proxy.text = proxy.text.replace(ours, "")
    with proxy.before(address(service)) as client:
        for path in ("/metrics", "/%6detrics", "/metrics?x"):
            assert client.get(path).status_code in (403, 404)


class Unreliable:
    """A server that takes requests and closes the connection without an answer."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self.taken.append(connection.recv(65_536).split(b" ")[0].decode())

    def close(self) -> None:
        """End it."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def test_what_changes_anything_is_never_sent_twice(proxy: Proxy) -> None:
    servers = [Unreliable(), Unreliable()]
    try:
        with proxy.before(*[server.address for server in servers]) as client:
            for ask in (Client.reserve, Client.cancel):
                # Each on a connection of its own: on one that was answered already, HAProxy says
                # nothing, and closes it.
                with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as own:
                    answer = ask(own, UNKNOWN)
                assert code(answer) == (503, "OUTCOME_UNKNOWN")
                assert answer.headers["Retry-After"] == "1"
    finally:
        for server in servers:
            server.close()
    taken = [method for server in servers for method in server.taken]
    assert (taken.count("POST"), taken.count("DELETE")) == (1, 1)


def test_one_service_stops_and_the_other_goes_on(
    proxy: Proxy, database: Database, start: Starter
) -> None:
    services = [start(database) for _ in range(2)]
    with proxy.before(*[address(service) for service in services]) as client:
        event = client.create_event(tickets=100)
        refused: list[tuple[int, str]] = []

        def buy() -> None:
            with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as buyer:
                for _ in range(20):
                    answer = buyer.reserve(event)
                    if answer.status_code != 201:
                        refused.append(code(answer))

        def stop() -> None:
            wait_until(lambda: client.event(event)["allocatedTickets"] > 10)
            services[0].stop()

        at_once(stop, *[buy] * 4)
        # What had come to the kernel and not to the service is lost, and told to be.
        assert set(refused) <= {(503, "OUTCOME_UNKNOWN")}
        assert len(refused) <= 4
    with services[1].client() as client:
        assert client.event(event)["allocatedTickets"] >= 80 - len(refused)


def test_what_comes_on_a_kept_connection_just_at_the_end_is_answered(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LAST_SECONDS", WAIT_SECONDS)
    service = start(database)
    with service.client() as client:
        event = client.create_event()
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        wait_until(lambda: not answers(client))
        last = client.reserve(event)
        assert (last.status_code, last.headers["Connection"]) == (201, "close")
        stopping.join()
