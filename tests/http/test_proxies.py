"""Proxies: nginx and HAProxy with the configurations of docs/how-to/deploy."""

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from service import limits, refusals
from service.settings import PACKAGE
from tests.support.browser import Browser
from tests.support.client import Client, code, send_crowd
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.sockets import read_all, statuses
from tests.support.streams import watch_event
from tests.support.tools import find_tool
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until

DEPLOY = PACKAGE.parent / "docs" / "how-to" / "deploy"
SERVER = "server one 127.0.0.1:8000"
UNKNOWN = "018f0000-0000-7000-8000-000000000001"


class Proxy:
    """A proxy in front of services, with its configuration from the docs."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self.program = program
        self.folder = folder
        self.port = port
        self.path = folder / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[program]
        self.text = (DEPLOY / self.path.name).read_text()
        self.log = folder / "log"
        self._client = f"127.0.0.1:{port}"
        # Set by enable_http2().
        self.https_origin = ""

    def change(self, old: str, new: str) -> None:
        """Change a line of the configuration, which must occur once."""
        lines = self.text.splitlines()
        (index,) = [number for number, line in enumerate(lines) if line.strip() == old]
        self.text = "\n".join([*lines[:index], new, *lines[index + 1 :], ""])

    def configure(self, *addresses: str) -> None:
        """Replace the ports and folders of the system by those of the test."""
        if self.program == "nginx":
            self.change("listen 80;", f"listen {self._client};")
            servers = " ".join(f"server {address};" for address in addresses)
            self.change("server 127.0.0.1:8000;", servers)
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
            for line, suffix in (
                (SERVER, ""),
                (f"{SERVER} track holdfast/one", " track holdfast/s{}"),
            ):
                lines = [
                    f"server s{number} {address}{suffix.format(number)}"
                    for number, address in enumerate(addresses)
                ]
                self.change(line, "\n".join(lines))
            self.change("log /dev/log local0", "log stderr format raw local0")
        if self.https_origin:
            self._configure_http2()
        if os.geteuid() != 0:  # it cannot change its user
            self.text = re.sub(r"^ *(user|group) .*$", "", self.text, flags=re.M)

    def enable_http2(self) -> None:
        """Use the lines for HTTP/2 that are comments in the docs, at another loopback address."""
        self.https_origin = f"https://127.0.0.2:{self.port}"

    def _configure_http2(self) -> None:
        certificate, key = create_certificate(self.folder)
        address = self.https_origin.removeprefix("https://")
        if self.program == "haproxy":
            both = self.folder / "both.pem"
            both.write_text(certificate.read_text() + key.read_text())
            line = "bind {} ssl crt {} alpn h2,http/1.1"
            old = line.format(":443", "/etc/haproxy/shop.pem")
            self.change(f"# {old}", line.format(address, both))
            return
        listen = f"listen {address} ssl http2;"
        if self._nginx_version() >= (1, 25, 1):
            listen = f"listen {address} ssl; http2 on;"
        self.change("# listen 443 ssl http2;", listen)
        for name, path in (("ssl_certificate", certificate), ("ssl_certificate_key", key)):
            suffix = {"ssl_certificate": "pem", "ssl_certificate_key": "key"}[name]
            self.change(f"# {name} /etc/nginx/shop.{suffix};", f"{name} {path};")

    def _nginx_version(self) -> tuple[int, ...]:
        process = subprocess.run(
            [find_tool("nginx"), "-v"], capture_output=True, text=True, check=True
        )
        return tuple(map(int, process.stderr.rpartition("/")[2].split()[0].split(".")))

    @contextmanager
    def in_front_of(self, *addresses: str) -> Iterator[Client]:
        """Run the proxy in front of services, and yield a client that goes through it."""
        self.configure(*addresses)
        self.path.write_text(self.text)
        with self.log.open("w") as log:
            process = subprocess.Popen([*self.command, *self.foreground_options], stderr=log)
        try:
            with Client(base_url=f"http://{self._client}", timeout=WAIT_SECONDS) as client:
                wait_until(lambda: accepts_connections(client) or process.poll() is not None)
                assert process.poll() is None, self.log.read_text()
                yield client
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)

    @property
    def command(self) -> list[str]:
        """The command line without the options that say what to do."""
        path = find_tool(self.program)
        if self.program == "nginx":
            return [path, "-p", str(self.folder), "-e", "/dev/stderr", "-c", str(self.path)]
        return [path, "-f", str(self.path)]

    @property
    def foreground_options(self) -> list[str]:
        """The options that keep it in the foreground, as a child process of the test."""
        return ["-g", "daemon off;"] if self.program == "nginx" else ["-db"]

    @property
    def check_options(self) -> list[str]:
        """The options that only check the configuration."""
        return ["-t"] if self.program == "nginx" else ["-c"]


def create_certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a new self-signed certificate and of its key."""
    certificate, key = folder / "shop.pem", folder / "shop.key"
    options = ("-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.2")
    subprocess.run(
        [find_tool("openssl"), "req", "-x509", *options, "-out", certificate, "-keyout", key],
        capture_output=True,
        check=True,
    )
    return certificate, key


def accepts_connections(client: Client) -> bool:
    try:
        socket.create_connection((client.base_url.host, client.base_url.port or 0)).close()
    except ConnectionRefusedError:
        return False
    return True


def address(service: RunningService) -> str:
    return service.url.removeprefix("http://")


@pytest.fixture
def service(database: Database, start: Starter) -> RunningService:
    """A running service that also has the names of the proxies."""
    return start(database, sweeps=False, allowed_hosts="*")


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, folder: Path, unused_port: int) -> Proxy:
    """Each of the two proxies; the test is skipped where it is not installed."""
    find_tool(request.param)
    return Proxy(request.param, folder, unused_port)


def test_the_configuration_is_valid_without_a_warning(proxy: Proxy) -> None:
    proxy.configure("127.0.0.1:8000")
    proxy.path.write_text(proxy.text)
    process = subprocess.run(
        [*proxy.command, *proxy.check_options], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert not re.search(r"\[?warn", process.stdout + process.stderr, re.I), process.stderr


def test_a_sale_works_through_the_proxy(proxy: Proxy, service: RunningService) -> None:
    with proxy.in_front_of(address(service)) as client:
        event = client.create_event(tickets=50)
        reserved = client.reserve(event, key="once")
        replay = client.reserve(event, key="once")
        assert (reserved.status_code, replay.status_code) == (201, 201)
        assert replay.headers["Idempotency-Replayed"] == "true"
        ticket = reserved.json()[0]["id"]
        assert client.find_ticket(ticket, user="alice").json()["userFingerprint"] == "alice"
        assert client.pay(ticket).status_code == 200
        (other,) = client.hold(event)
        assert client.cancel(other).status_code == 200
        assert code(client.cancel(other)) == (409, "ALREADY_CANCELLED")
        sold = send_crowd([str(client.base_url).rstrip("/")], event, people=200, connections=40)
        assert sold == {(201, ""): 49, (409, "TICKETS_SOLD_OUT"): 151}
        etag = client.get(f"/events/{event}").headers["ETag"]
        response = client.get(f"/events/{event}", headers={"If-None-Match": etag})
        assert response.status_code == 304
    log = proxy.log.read_text()
    assert f"POST /events/{event}/tickets" in log
    assert "alice" not in log


def test_a_request_keeps_its_id_or_gets_one(proxy: Proxy, service: RunningService) -> None:
    with proxy.in_front_of(address(service)) as client:
        response = client.get("/health/live", headers={"X-Request-Id": "client-id"})
        assert response.headers["X-Request-Id"] == "client-id"
        ids = [client.get("/health/live").headers["X-Request-Id"] for _ in range(2)]
        assert len(set(ids)) == 2
        # The proxy makes the id: one made by the service ends in a dash and a counter.
        assert all(re.fullmatch(r"[0-9a-f]{32}|[0-9a-f-]{36}", request_id) for request_id in ids)


def test_the_proxy_does_not_buffer_a_stream(proxy: Proxy, service: RunningService) -> None:
    with proxy.in_front_of(address(service)) as client, service.client() as buyer:
        event = buyer.create_event()
        with watch_event(client, event) as stream:
            assert stream.next_message()["version"] == 1
            buyer.hold(event)
            assert stream.next_message()["version"] == 2
        buyer.hold(event)
        with watch_event(client, event, last_id=1) as stream:
            assert [stream.next_message()["version"] for _ in range(2)] == [2, 3]
        wait_until(lambda: service.state.watchers.count == 0)


def test_a_client_can_use_http2(proxy: Proxy, service: RunningService) -> None:
    curl = find_tool("curl")
    proxy.enable_http2()
    with proxy.in_front_of(address(service)) as client:
        event = client.create_event(tickets=2)

        def send(version: str) -> list[str]:
            """Reserve a ticket, and return the status and the version of HTTP."""
            output = ("--output", "/dev/null", "--write-out", "%{http_code} %{http_version}")
            body = '{"quantity": 1, "userFingerprint": "alice"}'
            options = ("--silent", "--insecure", *output, "--json", body)
            process = subprocess.run(
                [curl, version, *options, f"{proxy.https_origin}/events/{event}/tickets"],
                capture_output=True,
                text=True,
                check=True,
            )
            return process.stdout.split()

        assert send("--http2") == ["201", "2"]
        assert send("--http1.1") == ["201", "1.1"]
        assert send("--http2") == ["409", "2"]


def test_a_browser_opens_more_than_six_streams_over_http2(
    proxy: Proxy, service: RunningService, tmp_path: Path
) -> None:
    proxy.enable_http2()
    with proxy.in_front_of(address(service)) as client, Browser(tmp_path) as page:
        page.call("Security.setIgnoreCertificateErrors", ignore=True)
        event = client.create_event()
        opened = "streams.filter((stream) => stream.readyState === EventSource.OPEN).length"
        for origin, expected in ((str(client.base_url).rstrip("/"), 6), (proxy.https_origin, 8)):
            page.open(f"{origin}/health/live")
            page.value(
                "messages = 0; streams = Array.from({length: 8}, () => {"
                f"const stream = new EventSource('/events/{event}/stream');"
                "stream.onmessage = () => { messages += 1; };"
                "return stream; }); 0"
            )
            page.wait_for(f"messages === {expected}")
            client.hold(event)
            page.wait_for(f"messages === {2 * expected}")
            # The others wait for a connection.
            assert page.value(opened) == expected
            assert service.state.watchers.count == expected


def test_a_slow_or_endless_header_does_not_reach_the_service(
    proxy: Proxy, service: RunningService
) -> None:
    if proxy.program == "nginx":
        proxy.change("client_header_timeout 10s;", "client_header_timeout 1s;")
    else:
        proxy.change("timeout http-request 10s", "timeout http-request 1s")
    with proxy.in_front_of(address(service)) as client:
        client.get("/health/live")
        connections = service.count_connections()
        slow = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(50)]
        for connection in slow:
            connection.settimeout(WAIT_SECONDS)
            connection.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nX: ")
        assert client.get("/health/live").status_code == 200
        # A health check of the proxy may be connected as well.
        assert service.count_connections() <= connections + 2
        for connection in slow:
            assert statuses(read_all(connection)) in ([], [408])
            connection.close()
        assert client.get("/health/live", headers={"X": "x" * 40_000}).status_code in (400, 431)


def test_a_body_that_is_too_large_gets_the_refusal_of_the_service(
    proxy: Proxy, service: RunningService
) -> None:
    with proxy.in_front_of(address(service)) as client:
        for size in (65_537, 80_000, 1_000_000):
            response = client.post(
                "/events", content=b"x" * size, headers={"Content-Type": "application/json"}
            )
            assert code(response) == (413, "PAYLOAD_TOO_LARGE")


def test_a_client_over_the_rate_limit_gets_busy_and_others_are_served(
    proxy: Proxy, service: RunningService
) -> None:
    # A slow machine would not reach the limits of the configuration.
    limits_of = {"nginx": ["rate=100r/s", "burst=400"], "haproxy": ["sc_http_req_rate(0) gt 400"]}
    for limit in limits_of[proxy.program]:
        assert proxy.text.count(limit) == 1
        proxy.text = proxy.text.replace(limit, limit.replace("400", "20").replace("100", "10"))
    with proxy.in_front_of(address(service)) as client:
        event = client.create_event()
        responses = [client.get(f"/events/{event}") for _ in range(300)]
        refused = [response for response in responses if response.status_code != 200]
        assert refused
        assert {code(response) for response in refused} == {(503, "BUSY")}
        assert {response.json()["error"] for response in refused} == {refusals.BUSY.error}
        assert {response.headers["Retry-After"] for response in refused} == {"1"}
        other_address = httpx2.HTTPTransport(local_address="127.0.0.2")
        with Client(base_url=client.base_url, transport=other_address) as other:
            assert other.reserve(event).status_code == 201


def test_the_metrics_are_not_public(proxy: Proxy, service: RunningService) -> None:
    # Remove the exception for the machine itself.
    allowed = {"nginx": "allow 127.0.0.1;", "haproxy": " !{ src 127.0.0.0/8 ::1 }"}[proxy.program]
    assert proxy.text.count(allowed) == 1
    proxy.text = proxy.text.replace(allowed, "")
    with proxy.in_front_of(address(service)) as client:
        for path in ("/metrics", "/%6detrics", "/metrics?x"):
            assert client.get(path).status_code in (403, 404)


class UnreliableServer:
    """A server that receives requests and closes the connection without a response."""

    def __init__(self) -> None:
        self.methods: list[str] = []
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
                self.methods.append(connection.recv(65_536).split(b" ")[0].decode())

    def close(self) -> None:
        """Stop the server."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def test_a_request_that_changes_anything_is_not_retried(proxy: Proxy) -> None:
    servers = [UnreliableServer(), UnreliableServer()]
    try:
        with proxy.in_front_of(*[server.address for server in servers]) as client:
            for send in (Client.reserve, Client.cancel):
                # Each on its own connection: HAProxy closes one that has had a response before
                # without sending another.
                with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as own:
                    response = send(own, UNKNOWN)
                assert code(response) == (503, "OUTCOME_UNKNOWN")
                assert response.json()["error"] == refusals.OUTCOME_UNKNOWN.error
                assert response.headers["Retry-After"] == "1"
    finally:
        for server in servers:
            server.close()
    methods = [method for server in servers for method in server.methods]
    assert (methods.count("POST"), methods.count("DELETE")) == (1, 1)


def test_a_sale_continues_while_one_of_two_services_stops(
    proxy: Proxy, database: Database, start: Starter
) -> None:
    services = [start(database) for _ in range(2)]
    with proxy.in_front_of(*[address(service) for service in services]) as client:
        event = client.create_event(tickets=100)
        codes: list[tuple[int, str]] = []

        def buy() -> None:
            with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as buyer:
                for _ in range(20):
                    response = buyer.reserve(event)
                    if response.status_code != 201:
                        codes.append(code(response))

        def stop() -> None:
            wait_until(lambda: client.find_event(event)["allocatedTickets"] > 10)
            services[0].stop()

        at_once(stop, *[buy] * 4)
        # A request that the kernel had received, and the service had not, is refused.
        assert set(codes) <= {(503, "OUTCOME_UNKNOWN")}
        assert len(codes) <= 4
    with services[1].client() as client:
        assert client.find_event(event)["allocatedTickets"] >= 80 - len(codes)


def test_a_kept_alive_connection_is_served_during_shutdown(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_CLOSE_SECONDS", WAIT_SECONDS)
    service = start(database)
    with service.client() as client:
        event = client.create_event()
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        wait_until(lambda: not accepts_connections(client))
        last = client.reserve(event)
        assert (last.status_code, last.headers["Connection"]) == (201, "close")
        stopping.join()


def test_a_new_connection_is_served_during_shutdown(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_CLOSE_SECONDS", WAIT_SECONDS)
    service = start(database)
    host, port = service.url.removeprefix("http://").split(":")
    with (
        service.client() as client,
        socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection,
    ):
        wait_until(lambda: service.count_connections() == 1)
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        wait_until(lambda: not accepts_connections(client))
        # Its first request was on its way.
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = connection.recv(1000)
        assert response.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in response.lower()
        stopping.join()
