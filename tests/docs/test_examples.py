"""Examples: the checkouts of docs/examples sell, wait, retry and report every refusal."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from psycopg.conninfo import conninfo_to_dict
from starlette.routing import compile_path

from service import limits
from service.web.routes import ROUTES
from tests.support.api_description import operations, responses_of
from tests.support.checkouts import (
    HAS_EVENT_SOURCE,
    UNKNOWN,
    NodeCheckout,
    PythonCheckout,
    load_checkout,
    needs_node,
)
from tests.support.client import Client
from tests.support.database import Database
from tests.support.lossy_proxy import LossyProxy
from tests.support.run_log import RUN_LOG
from tests.support.services import RunningService, Starter
from tests.support.tools import needs
from tests.support.waiting import wait_until

# The routes that a checkout uses.
ROUTES_OF_CHECKOUT = {
    ("POST", "/events/{eventId}/tickets"),
    ("GET", "/reservations/{reservationId}"),
    ("POST", "/reservations/{reservationId}/payment"),
    ("POST", "/reservations/{reservationId}/extension"),
    ("DELETE", "/reservations/{reservationId}"),
}


class Buyers(Protocol):
    """The type of the fixture ``buyer``."""

    def __call__(
        self, event: str, url: str = "", name: str = "alice"
    ) -> PythonCheckout | NodeCheckout:
        """Return a buyer's checkout; one with the same name resumes the saved order."""


@pytest.fixture(params=[PythonCheckout, pytest.param(NodeCheckout, marks=needs_node)])
def buyer(
    request: pytest.FixtureRequest, service: RunningService, tmp_path: Path
) -> Iterator[Buyers]:
    """A function that makes checkouts in one of the two languages."""
    checkouts: list[PythonCheckout | NodeCheckout] = []

    def make(event: str, url: str = "", name: str = "alice") -> PythonCheckout | NodeCheckout:
        (tmp_path / name).mkdir(exist_ok=True)
        checkout: PythonCheckout | NodeCheckout = request.param(
            url or service.url, event, tmp_path / name
        )
        checkouts.append(checkout)
        return checkout

    yield make
    for checkout in checkouts:
        with suppress(OSError, KeyError):
            RUN_LOG.fingerprints.add(checkout.saved_order["fingerprint"])
        checkout.close()


class RecordingProxy(LossyProxy):
    """A proxy that records which routes are requested."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        super().__init__((host, int(port)))
        self.routes: set[tuple[str, str]] = set()

    @property
    def url(self) -> str:
        """The address of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def _forward_requests(self, near: Any, far: Any) -> None:
        class Near:
            """The client's socket, whose data passes through ``read``."""

            def recv(_, size: int) -> bytes:  # noqa: N805
                return self.read(near.recv(size))

        super()._forward_requests(Near(), far)  # type: ignore[arg-type]

    def read(self, data: bytes) -> bytes:
        """Record the requests in the data, and return the data to forward."""
        for method, path in re.findall(r"^([A-Z]+) (\S+) HTTP/1.1\r$", data.decode(), re.M):
            route = next(route for route in ROUTES if compile_path(route)[0].match(path))
            self.routes.add((method, route))
        return data


class MediaTypeChangingProxy(RecordingProxy):
    """A proxy that changes the media type of each request."""

    def read(self, data: bytes) -> bytes:
        """Return the data with another media type."""
        return data.replace(b"application/json", b"application/jsom")


def leave_seconds(database: Database, seconds: int) -> None:
    """Let every hold end in so many seconds."""
    database.psql(
        f"update ticket_allocations set expires_at = now() + interval '{seconds} s' "
        "where status = 'reserved'"
    )


def test_a_checkout_completes_a_sale(
    client: Client, database: Database, service: RunningService, buyer: Buyers
) -> None:
    event = client.create_event(tickets=3)
    with RecordingProxy(service.url) as proxy:
        alice = buyer(event, proxy.url)
        assert alice.do("reserve", 2) == "reserved"
        assert client.find_event(event)["reservedTickets"] == 2
        leave_seconds(database, 60)
        assert alice.do("refresh") == "reserved"
        assert alice.do("buy") == "purchased"
        assert alice.payments == ["charged"]
        bob = buyer(event, proxy.url, "bob")
        assert bob.do("reserve", 1) == "reserved"
        assert bob.do("cancel") == "user_cancelled"
    assert proxy.routes == ROUTES_OF_CHECKOUT
    counts = client.find_event(event)
    assert (counts["purchasedTickets"], counts["availableTickets"]) == (2, 1)
    assert alice.retry_codes == bob.retry_codes == []


def test_the_remaining_time_ignores_the_local_clock(client: Client, buyer: Buyers) -> None:
    alice = buyer(client.create_event())
    alice.do("reserve", 1)
    assert 0 < alice.seconds_left < 900


@pytest.mark.parametrize("paid", [False, True])
def test_a_killed_checkout_resumes_with_the_same_tickets(
    client: Client, buyer: Buyers, paid: bool
) -> None:
    event = client.create_event(tickets=2)
    alice = buyer(event)
    alice.do("reserve", 2)
    if paid:
        alice.do("pay")
    alice.close()
    resumed = buyer(event)
    assert resumed.do("reserve", 2) == ("purchased" if paid else "reserved")
    assert resumed.reservation["id"] == alice.reservation["id"]
    assert client.find_event(event)["allocatedTickets"] == 2
    if not paid:
        assert 0 < resumed.seconds_left < 900
        assert resumed.do("pay") == "purchased"


def test_a_checkout_pays_for_what_is_left_of_its_order(client: Client, buyer: Buyers) -> None:
    event = client.create_event(tickets=2)
    alice = buyer(event)
    alice.do("reserve", 2)
    owner = alice.saved_order["fingerprint"]
    client.cancel(client.list_user_tickets(owner).json()["data"][0]["id"], owner)
    assert alice.do("refresh") == "reserved"
    assert alice.do("pay") == alice.do("pay") == "purchased"
    assert client.find_event(event)["purchasedTickets"] == 1


def test_an_expired_hold_is_not_paid_and_is_available_to_others(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(tickets=1)
    alice = buyer(event)
    alice.do("reserve", 1)
    leave_seconds(database, 0)
    assert alice.do("refresh") == "HOLD_EXPIRED"
    assert alice.do("buy") == "HOLD_EXPIRED"
    assert alice.payments == []
    assert alice.do("reserve", 1) == "HOLD_EXPIRED"
    assert buyer(event, name="bob").do("reserve", 1) == "reserved"


def test_a_hold_with_little_time_is_extended_before_the_money_is_taken(
    client: Client, database: Database, buyer: Buyers
) -> None:
    alice = buyer(client.create_event())
    alice.do("reserve", 1)
    assert alice.do("extend") == "reserved"  # there is enough time
    leave_seconds(database, 60)
    alice.do("refresh")
    assert alice.seconds_left < 60
    assert alice.do("extend") == "reserved"
    assert alice.seconds_left > 800
    assert (
        client.find_reservation(alice.reservation["id"], alice.saved_order["fingerprint"]).json()[
            "expiresAt"
        ]
        == (alice.reservation["expiresAt"])
    )


def test_no_money_is_taken_when_the_time_is_too_short(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(holdSeconds=900, maxHoldSeconds=900)
    alice = buyer(event)
    alice.do("reserve", 1)
    database.psql(
        "alter table ticket_allocations disable trigger all;"
        "update ticket_allocations set created_at = created_at - interval '895 s',"
        " expires_at = expires_at - interval '895 s';"
        "alter table ticket_allocations enable trigger all"
    )
    alice.do("refresh")
    assert alice.do("buy") == "HOLD_AT_MAXIMUM"
    assert alice.payments == []
    assert client.find_event(event)["purchasedTickets"] == 0


def test_a_payment_that_comes_late_gets_the_tickets_back(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(tickets=2)
    alice = buyer(event)
    alice.do("reserve", 2)
    leave_seconds(database, 0)  # alice does not know it yet, and is charged
    assert alice.do("buy") == "purchased"
    assert alice.payments == ["charged"]
    assert client.find_event(event)["purchasedTickets"] == 2


def test_the_money_is_given_back_when_the_tickets_are_gone(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(tickets=2)
    alice = buyer(event)
    alice.do("reserve", 2)
    leave_seconds(database, 0)
    client.hold(event, 1, user="bob")
    assert alice.do("buy") == "HOLD_EXPIRED"
    assert alice.payments == ["charged", "refunded"]
    assert client.find_event(event)["purchasedTickets"] == 0


def test_a_checkout_waits_while_the_service_is_busy(
    client: Client, database: Database, buyer: Buyers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOCK_SECONDS", 0.05)
    event = client.create_event(tickets=1)
    alice = buyer(event)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event):
            reserving = pool.submit(alice.do, "reserve", 1)
            wait_until(lambda: "BUSY" in alice.retry_codes)
        assert reserving.result() == "reserved"
    assert set(alice.retry_codes) == {"BUSY"}


def test_a_retry_after_a_lost_response_does_nothing_twice(
    client: Client, service: RunningService, buyer: Buyers
) -> None:
    event = client.create_event(tickets=9)
    with ThreadPoolExecutor(1) as pool, RecordingProxy(service.url) as proxy:

        def do_losing_response(
            checkout: PythonCheckout | NodeCheckout, verb: str, *arguments: int
        ) -> str:
            lost_before = proxy.lost
            proxy.loses_responses = True
            future = pool.submit(checkout.do, verb, *arguments)
            proxy.wait_until_lost(lost_before + 1)
            proxy.loses_responses = False
            return future.result()

        alice = buyer(event, proxy.url)
        assert do_losing_response(alice, "reserve", 2) == "reserved"
        assert do_losing_response(alice, "pay") == "purchased"
        bob = buyer(event, proxy.url, "bob")
        assert do_losing_response(bob, "reserve", 3) == "reserved"
        assert do_losing_response(bob, "cancel") == "user_cancelled"
    assert {*alice.retry_codes, *bob.retry_codes} == {"OUTCOME_UNKNOWN"}
    counts = client.find_event(event)
    assert (counts["purchasedTickets"], counts["allocatedTickets"]) == (2, 2)


def test_an_unknown_outcome_is_retried_with_the_same_key(
    database: Database, start: Starter, buyer: Buyers
) -> None:
    parts = conninfo_to_dict(database.dsn)
    with LossyProxy(str(Path(str(parts["host"])) / ".s.PGSQL.5432")) as proxy:
        dsn = f"postgresql://holdfast@127.0.0.1:{proxy.port}/{parts['dbname']}"
        service = start(Database(f"{dsn}?sslmode=disable&gssencmode=disable"), sweeps=False)
        with service.client() as client, ThreadPoolExecutor(1) as pool:
            event = client.create_event(tickets=5)
            client.hold(event)  # opens a connection and prepares the statements
            alice = buyer(event, service.url)
            proxy.loses_responses = True
            reserving = pool.submit(alice.do, "reserve", 2)
            wait_until(lambda: alice.retry_codes != [])
            proxy.loses_responses = False
            assert reserving.result() == "reserved"
            assert alice.retry_codes[0] == "OUTCOME_UNKNOWN"
            assert client.find_event(event)["allocatedTickets"] == 3
        service.stop()


def test_a_checkout_without_a_service_gives_up_and_keeps_the_order(
    client: Client, buyer: Buyers, unused_port: int
) -> None:
    event = client.create_event(tickets=2)
    stranded = buyer(event, f"http://127.0.0.1:{unused_port}")
    assert stranded.do("reserve", 2) == "OUTCOME_UNKNOWN"
    first_order = stranded.saved_order
    alice = buyer(event)
    assert alice.do("reserve", 2) == "reserved"
    assert alice.saved_order == first_order


def cause(code: str, client: Client, event: str, alice: PythonCheckout | NodeCheckout) -> str:
    """Cause a refusal, mostly through another client, and return the code that alice reports."""
    if code in ("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS"):
        client.hold(event, 3 if code == "TICKETS_SOLD_OUT" else 2)
    if code == "WAITING_LIST_FIRST":
        client.hold(event, 2)
        client.join_line(event, 2, "bob")
        return alice.do("reserve", 1)
    if code in ("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS", "NOT_FOUND", "UNSUPPORTED_MEDIA_TYPE"):
        return alice.do("reserve", 2)
    if code == "BAD_REQUEST":
        return alice.do("reserve", 11)
    alice.do("reserve", 2)
    overwritten: dict[str, dict[str, Any]] = {
        "IDEMPOTENCY_KEY_REUSED": {"quantity": 3},
        "PAYLOAD_TOO_LARGE": {"fingerprint": "a" * 70_000},
        "WRONG_FINGERPRINT": {"fingerprint": "another-buyer"},
    }
    if code in overwritten:
        alice.overwrite_order(**overwritten[code])
        return alice.do("reserve", 3) if code == "IDEMPOTENCY_KEY_REUSED" else alice.do("pay")
    owner = alice.saved_order["fingerprint"]
    tickets = [ticket["id"] for ticket in client.list_user_tickets(owner).json()["data"]]
    if code == "ALREADY_PURCHASED":
        client.pay(tickets[0], owner)
        return alice.do("cancel")
    for ticket in tickets:
        if code == "ALREADY_CANCELLED":
            client.cancel(ticket, owner)
        else:
            client.pay(ticket, owner)
            client.refund(ticket)
    return alice.do("pay")


def test_a_checkout_reports_every_refusal(
    client: Client, service: RunningService, buyer: Buyers
) -> None:
    for code in (
        *("BAD_REQUEST", "NOT_FOUND", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"),
        *("TICKETS_SOLD_OUT", "NOT_ENOUGH_TICKETS", "IDEMPOTENCY_KEY_REUSED"),
        "WAITING_LIST_FIRST",
        *("WRONG_FINGERPRINT", "ALREADY_PURCHASED", "ALREADY_CANCELLED", "ALREADY_REFUNDED"),
    ):
        event = client.create_event(tickets=3, name=code)
        with (MediaTypeChangingProxy if code == "UNSUPPORTED_MEDIA_TYPE" else RecordingProxy)(
            service.url
        ) as proxy:
            alice = buyer(UNKNOWN if code == "NOT_FOUND" else event, proxy.url, name=code)
            assert cause(code, client, event, alice) == code
            assert alice.retry_codes == []
            alice.close()


def test_an_internal_error_is_reported_and_the_order_is_kept(
    client: Client, database: Database, buyer: Buyers
) -> None:
    event = client.create_event(tickets=3)
    client.hold(event)  # opens a connection and prepares the statements
    alice = buyer(event)
    database.psql("alter table ticket_allocations rename column position to place")
    assert alice.do("reserve", 1) == "INTERNAL_SERVER_ERROR"
    database.psql("alter table ticket_allocations rename column place to position")
    assert alice.do("reserve", 1) == "reserved"
    assert alice.retry_codes == []


def test_a_checkout_has_a_message_for_every_code(client: Client, buyer: Buyers) -> None:
    description = client.get("/openapi.json").json()
    described = operations(description)
    codes = {
        code
        for route in ROUTES_OF_CHECKOUT
        for _, code in responses_of(description, described[route])
        if code
    }
    assert set(buyer(UNKNOWN).messages) == codes


@needs_node
def test_both_checkouts_have_the_same_messages(service: RunningService, tmp_path: Path) -> None:
    javascript = NodeCheckout(service.url, UNKNOWN, tmp_path)
    assert javascript.messages == load_checkout().MESSAGES
    javascript.close()


@needs(HAS_EVENT_SOURCE, "a node that has an EventSource (20.18 or newer) is missing")
def test_a_watcher_reconnects_after_its_stream_was_refused(
    client: Client, service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = client.create_event()
    checks: list[int] = []

    class RefuseFirst(int):
        """A limit that refuses the first watcher only."""

        def __le__(self, count: int) -> bool:
            checks.append(count)
            return len(checks) == 1

    monkeypatch.setattr(limits, "MAX_WATCHERS", RefuseFirst())
    page = NodeCheckout(service.url, event, tmp_path)
    page.send_command("watch")
    wait_until(lambda: bool(page.streamed_events))
    client.hold(event, 3)
    wait_until(lambda: page.streamed_events[-1]["availableTickets"] == 7)
    page.close()
    assert len(checks) == 2
