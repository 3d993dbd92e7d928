"""What tests stand on: databases, running services, a client that speaks the domain's verbs."""

import asyncio
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2
import psycopg
import pytest
import uvicorn
from starlette.applications import Starlette

from service.app import create_app
from service.embedded.programs import find_programs
from service.serving import bind, server_config
from service.settings import Settings, read_settings, resource
from service.web.state import Service

T = TypeVar("T")

SERVICE_ROLE = "holdfast_service"
"""The role that the services under test connect as."""

PGBOUNCER = os.environ.get("HOLDFAST_TEST_PGBOUNCER", "")
"""PgBouncer's program: with it, what is under test reaches its database by way of one."""

POOLER_PORT = 6432
"""Only a part of the socket's name."""

WAIT_SECONDS = 20.0
"""How long a test waits for what must come. It is a bound, not a measure."""


@dataclass(frozen=True)
class Database:
    """A database of one test's own."""

    dsn: str
    """As the owner of all that is in it."""

    @property
    def service_dsn(self) -> str:
        """As the role that has what the service needs, and no more."""
        dsn = self.dsn.replace("//holdfast@", f"//{SERVICE_ROLE}@")
        if self.is_pooled:
            dsn = dsn.replace("/socket", f"/pooler&port={POOLER_PORT}")
        return dsn

    @property
    def is_pooled(self) -> bool:
        """Whether the service reaches it by way of a pooler: one that all tests share may be."""
        return bool(PGBOUNCER and re.search(r"@/test_\d+\?host=[^&]*/socket$", self.dsn))

    def psql(self, sql: str) -> list[str]:
        """Run SQL in psql and return its lines; columns are separated by ``|``."""
        done = self.try_psql(sql)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def try_psql(
        self, sql: str, *arguments: str, role: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run SQL in psql as a person would, whatever comes of it."""
        return subprocess.run(
            [
                find_programs()["psql"],
                *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
                *("-v", "ON_ERROR_STOP=1", f"--dbname={self.dsn}", *arguments),
            ],
            input=(f"set role {role};" if role else "") + sql,
            capture_output=True,
            text=True,
            check=False,
        )

    def connect(self) -> psycopg.Connection:
        """Open a connection of a stranger to the service."""
        return psycopg.connect(self.dsn, application_name="stranger")

    def refuses(self, sql: str) -> str:
        """Run SQL that must fail, and return what psql says of it."""
        done = self.try_psql(sql)
        assert done.returncode != 0, f"not refused: {sql}"
        return done.stderr

    @contextmanager
    def holding(self, event_id: str) -> Iterator[psycopg.Connection]:
        """Hold an event's lock for as long as the block runs; its end commits."""
        with self.connect() as rival:
            rival.execute("select from events where id = %s for update", [event_id])
            yield rival

    def wait_until_blocked(self, how_many: int = 1, of: str = "holdfast") -> None:
        """Wait until so many connections of the service, or of another name, wait for a lock."""
        wait_until(
            lambda: (
                int(
                    self.psql(
                        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' "
                        f"and application_name = '{of}' and datname = current_database()"
                    )[0]
                )
                >= how_many
            ),
            f"{of} does not wait for a lock: is the event still locked (sql/lock_events.sql)?",
        )

    def adds_up(self) -> None:
        """Assert counters = rows = the ledger's last row = the ledger's sum, for every event."""
        check = f"\\i {resource('sql') / 'check_events.sql'}"
        done = self.try_psql(check, "--set=event_ids={}", "--set=failed_only=true")
        assert (done.stdout, done.stderr) == ("", "")

    def lapse(self, ticket_id: str) -> None:
        """Let a hold's time be up."""
        self.psql(
            "update ticket_allocations set expires_at = clock_timestamp() - interval '1 s' "
            f"where id = '{ticket_id}'"
        )


class RunLog:
    """All that the services of a test run have logged, and all fingerprints sent to them."""

    def __init__(self) -> None:
        self.fingerprints: set[str] = set()
        self.path = Path(tempfile.mkstemp(prefix="holdfast-log-")[1])
        self.file = self.path.open("a")
        handler = logging.FileHandler(self.path)
        handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
        for ours in ("service", "uvicorn", "starlette", "asyncio"):
            logging.getLogger(ours).addHandler(handler)
            logging.getLogger(ours).setLevel(logging.DEBUG)

    def told(self) -> str:
        """Return what was logged."""
        return self.path.read_text(errors="replace")

    def shown(self) -> set[str]:
        """Return the fingerprints that the log shows, as whole words."""
        words = set(re.findall(r"[\x21-\x7e]+", self.told()))
        words |= {word.strip("'\"(),;:{}[]=") for word in words}
        words |= set(re.findall(r"[\w-]{3,}", self.told()))
        return self.fingerprints & words


RUN_LOG = RunLog()

SEEN: set[tuple[str, str, int, str]] = set()
"""What the clients of a test run were answered: method, path, status, code; ids as ``{id}``."""

_ANY_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def wait_until(holds: Callable[[], bool], why: str = "it did not come true in time") -> None:
    """Look again and again until something holds; it must, within WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


class Client(httpx2.Client):
    """A client of the service that speaks its verbs, so that no test has a URL."""

    process: subprocess.Popen[str] | None = None
    """The service, where it is a process of its own."""

    def request(self, *arguments: Any, **options: Any) -> httpx2.Response:
        """Send a request, and remember the fingerprint in it and what was answered."""
        body, headers = options.get("json"), options.get("headers")
        for given, name in ((body, "userFingerprint"), (headers, "X-User-Fingerprint")):
            if isinstance(given, dict) and isinstance(given.get(name), str):
                RUN_LOG.fingerprints.add(given[name])
        answer = super().request(*arguments, **options)
        # Without it the HTTP server has refused, before there was a request.
        if "X-Request-Id" in answer.headers:
            path, method = _ANY_ID.sub("{id}", answer.request.url.path), answer.request.method
            is_refusal = answer.status_code >= 400 and answer.content
            told = answer.json().get("code", "") if is_refusal else ""
            SEEN.add((method, path, answer.status_code, told))
        return answer

    def create_event(self, tickets: int = 10, name: str = "Opening night", **fields: Any) -> str:
        """Make an event and return its id."""
        body = {"name": name, "date": "2030-01-01T20:00:00Z", "totalTickets": tickets, **fields}
        answer = self.post("/events", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def event(self, event_id: str) -> dict[str, Any]:
        """Return an event as it is shown."""
        answer = self.get(f"/events/{event_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def update_event(self, event_id: str, **changes: Any) -> httpx2.Response:
        """Update an event."""
        return self.patch(f"/events/{event_id}", json=changes)

    def reserve(
        self, event_id: str, quantity: int = 1, user: str = "alice", key: str | None = None
    ) -> httpx2.Response:
        """Ask for tickets."""
        return self.post(
            f"/events/{event_id}/tickets",
            json={"quantity": quantity, "userFingerprint": user},
            headers={"Idempotency-Key": key} if key else {},
        )

    def hold(self, event_id: str, quantity: int = 1, user: str = "alice") -> list[str]:
        """Reserve tickets and return their ids."""
        answer = self.reserve(event_id, quantity, user)
        assert answer.status_code == 201, answer.text
        return [ticket["id"] for ticket in answer.json()]

    def ticket(self, ticket_id: str, user: str | None = None) -> httpx2.Response:
        """Look at a ticket."""
        headers = {"X-User-Fingerprint": user} if user else {}
        return self.get(f"/events/tickets/{ticket_id}", headers=headers)

    def pay(self, ticket_id: str, user: str = "alice") -> httpx2.Response:
        """Pay for a ticket."""
        return self.post(f"/events/tickets/{ticket_id}/payment", json={"userFingerprint": user})

    def cancel(self, ticket_id: str, user: str = "alice") -> httpx2.Response:
        """Give a ticket back."""
        headers = {"X-User-Fingerprint": user}
        return self.delete(f"/events/tickets/{ticket_id}/payment", headers=headers)

    def refund(self, ticket_id: str) -> httpx2.Response:
        """Take a purchase back."""
        return self.post(f"/events/tickets/{ticket_id}/refund")

    def reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Look at a reservation."""
        headers = {"X-User-Fingerprint": user}
        return self.get(f"/reservations/{reservation_id}", headers=headers)

    def pay_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Pay for a whole reservation."""
        return self.post(f"/reservations/{reservation_id}/payment", json={"userFingerprint": user})

    def cancel_reservation(self, reservation_id: str, user: str = "alice") -> httpx2.Response:
        """Give a whole reservation back."""
        headers = {"X-User-Fingerprint": user}
        return self.delete(f"/reservations/{reservation_id}", headers=headers)

    def ledger(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's ledger."""
        return self.get(f"/events/{event_id}/ledger", params=query)

    def audit(self, event_id: str) -> httpx2.Response:
        """Have an event's books checked."""
        return self.get(f"/events/{event_id}/audit")

    def user_tickets(self, user: str = "alice", **query: Any) -> httpx2.Response:
        """List somebody's own tickets."""
        return self.get("/tickets", headers={"X-User-Fingerprint": user}, params=query)

    def event_tickets(self, event_id: str, **query: Any) -> httpx2.Response:
        """List an event's tickets."""
        return self.get(f"/events/{event_id}/tickets", params=query)


@dataclass
class RunningService:
    """A service in a thread of the test's process, on a port of its own."""

    database: Database
    settings: Settings
    pooled: bool = False
    """Whether it keeps to what holds behind a pooler, also where there is none."""
    url: str = ""
    _app: Starlette | None = field(default=None, repr=False)
    _server: uvicorn.Server | None = field(default=None, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._app = create_app(
            self.settings,
            self.database.service_dsn,
            pooled=self.pooled or self.database.is_pooled,
        )
        config = server_config(self.settings, self._app)
        listening = bind(self.settings)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        wait_until(lambda: self._server is not None and self._server.started)

    def stop(self) -> None:
        """Stop it as SIGTERM would."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join()

    @property
    def state(self) -> Service:
        """What it has, as its handlers see it."""
        assert self._app is not None
        state: Service = self._app.state.service
        return state

    def tasks(self) -> int:
        """Return how many tasks its event loop has under way."""
        assert self._server is not None
        return len(self._server.server_state.tasks)

    def connections(self) -> int:
        """Return how many clients are connected."""
        assert self._server is not None
        return len(self._server.server_state.connections)

    def wait_until_accepted(self, how_many: int) -> None:
        """Wait until so many changes wait in the service for their answer."""
        wait_until(lambda: self.state.write_path.accepted == how_many)

    def client(self) -> Client:
        """Return a client with connections of its own."""
        return Client(base_url=self.url, timeout=WAIT_SECONDS)


class Starter(Protocol):
    """What the fixture ``start`` is."""

    def __call__(
        self, database: Database, *, sweeps: bool = True, **settings: Any
    ) -> RunningService:
        """Start a service on a database, with settings by name."""


def settings_for_tests(**changes: Any) -> Settings:
    """Return the settings of a service under test."""
    variables = {name.upper(): str(value) for name, value in changes.items()}
    return read_settings({"PORT": "0", "LOG_LEVEL": "error", **variables})


@contextmanager
def serving(database: Database, **settings: Any) -> Iterator[Client]:
    """Run ``holdfast serve`` as a process of its own, as in production, and give a client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {name.upper(): str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={**os.environ, "DATABASE_URL": database.service_dsn, "PORT": str(port), **variables},
        stderr=RUN_LOG.file,
        text=True,
    )
    try:
        with Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
            wait_until(lambda: is_live(client) or process.poll() is not None)
            assert process.poll() is None, RUN_LOG.told()[-1000:]
            client.process = process
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS * 2)


@contextmanager
def served(
    folder: Path, port: int, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Run ``holdfast`` on its embedded default, as a new user would."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "PORT": str(port)} | variables,
        stderr=RUN_LOG.file,
        text=True,
        start_new_session=True,
    )
    try:
        with Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
            wait_until(lambda: is_live(client) or process.poll() is not None)
            assert process.poll() is None, RUN_LOG.told()[-1000:]
            yield process, client
    finally:
        process.kill()
        process.communicate()
        wait_until(lambda: not runs(folder))


def runs(folder: Path) -> bool:
    """Whether a PostgreSQL runs on this data: a killed one leaves its postmaster.pid behind."""
    try:
        return any(
            Path("/proc", pid_file.read_text().partition("\n")[0]).exists()
            for pid_file in folder.glob("postgresql-*/postmaster.pid")
        )
    except FileNotFoundError:  # gone between the look and the read
        return False


def workers_of(pid: int) -> list[int]:
    """Return the pids of the workers of a service that has several; not its resource tracker."""
    workers = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers


def is_live(client: Client) -> bool:
    """Whether the service answers."""
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make calls at once, each in a thread, and return what they returned, in their order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def crowd(
    urls: Sequence[str], event_id: str, people: int, connections: int, quantity: int = 1
) -> Counter[tuple[int, str]]:
    """Send a crowd that wants tickets of one event; return how often each answer came.

    Args:
        urls: the services, which the crowd takes in turn.
        event_id: the event.
        people: how many requests, each with a fingerprint of its own.
        connections: how many at once.
        quantity: how many tickets each wants.

    Returns:
        By status and code; the code of a success is ''.
    """

    async def send() -> Counter[tuple[int, str]]:
        answers: Counter[tuple[int, str]] = Counter()
        limits = httpx2.Limits(max_connections=connections)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as client:

            async def person(number: int) -> None:
                answer = await client.post(
                    f"{urls[number % len(urls)]}/events/{event_id}/tickets",
                    json={"quantity": quantity, "userFingerprint": f"person-{number}"},
                )
                told = answer.json()
                code = told["code"] if isinstance(told, dict) else ""
                answers[answer.status_code, code] += 1

            await asyncio.gather(*(person(number) for number in range(people)))
        return answers

    return asyncio.run(send())


def not_pooled(why: str) -> pytest.MarkDecorator:
    """Return the mark of a test that a pooler would get between."""
    return pytest.mark.skipif(bool(PGBOUNCER), reason=f"not by way of a pooler: {why}")


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Return a refusal's status and code."""
    return answer.status_code, answer.json()["code"]
