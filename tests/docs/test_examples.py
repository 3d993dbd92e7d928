"""Examples: the checkouts of docs/examples sell, wait, and tell every refusal there is."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from psycopg.conninfo import conninfo_to_dict

from service import limits
from tests.support.between import Between
from tests.support.checkouts import HAS_EVENT_SOURCE, UNKNOWN, InNode, InPython, loaded, with_node
from tests.support.client import Client
from tests.support.database import Database
from tests.support.described import answers_of, operations
from tests.support.run_log import RUN_LOG
from tests.support.services import RunningService, Starter
from tests.support.waiting import wait_until

ASKED = {
    ("POST", "/events/{id}/tickets"),
    ("GET", "/reservations/{id}"),
    ("POST", "/reservations/{id}/payment"),
    ("DELETE", "/reservations/{id}"),
}
"""The routes that a checkout goes by."""


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
