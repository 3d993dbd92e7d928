"""Metrics: what the service has counted, and that it counts it once, however many workers."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import Client, is_live
from tests.support.database import Database
from tests.support.services import Starter, serving, workers_of
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def figures(client: Client) -> Figures:
    """Read all samples, by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(told: Figures, name: str, **labels: str) -> float:
    return told.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture
def client(database: Database, start: Starter) -> Iterator[Client]:
    with start(database).client() as client:
        yield client


def test_what_becomes_of_tickets_is_counted(client: Client, database: Database) -> None:
    before = figures(client)
    event = client.create_event(tickets=9)
    paid, cancelled, refunded, lapsed = client.hold(event, quantity=4)
    client.pay(paid)
    client.pay(refunded)
    client.cancel(cancelled)
    client.refund(refunded)
    database.lapse(lapsed)
    client.hold(event, quantity=2)
    now = figures(client)
    changes = {"reserved": 6, "purchased": 2, "user_cancelled": 1, "refunded": 1, "expired": 1}
    assert changes == {
        change: of(now, "holdfast_tickets_total", change=change)
        - of(before, "holdfast_tickets_total", change=change)
        for change in changes
    }


def test_requests_are_counted_by_route_method_and_status(client: Client) -> None:
    before = figures(client)
    event = client.create_event(tickets=1)
    for _ in range(3):
        client.reserve(event)
    client.get(f"/events/{event}/nothing")
    client.request("BREW", "/events")
    now = figures(client)

    def more(name: str, **labels: str) -> float:
        return of(now, name, **labels) - of(before, name, **labels)

    counted, route = "holdfast_request_seconds_count", "/events/{id}/tickets"
    assert more(counted, method="POST", route=route, status="201") == 1
    assert more(counted, method="POST", route=route, status="409") == 2
    assert more(counted, method="other", route="none", status="404") == 1
    assert more("holdfast_refusals_total", code="TICKETS_SOLD_OUT") == 2
    assert more("holdfast_batch_requests_sum") >= 3
    assert more("holdfast_lock_wait_seconds_count") == more("holdfast_batch_seconds_count")


def test_who_waits_for_a_lock_is_seen_to_wait(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    before = figures(client)
    with ThreadPoolExecutor(1) as pool, database.holding(event):
        answering = pool.submit(client.reserve, event)
        database.wait_until_blocked()
        wait_until(lambda: of(figures(client), "holdfast_queue_requests") == 1)
    assert answering.result().status_code == 201
    waited = "holdfast_lock_wait_seconds_sum"
    assert of(figures(client), waited) > of(before, waited)


def test_a_batch_that_is_undone_is_counted_by_the_class_of_its_error(
    unbalanced_database: Database, start: Starter
) -> None:
    with start(unbalanced_database).client() as client:
        event = client.create_event()
        before = figures(client)
        unbalanced_database.psql(
            "alter table ticket_allocations add check (position > 9) not valid"
        )
        assert client.reserve(event).status_code == 500
        now = figures(client)
    failed = "holdfast_batches_failed_total"
    assert of(now, failed, reason="23") > of(before, failed, reason="23")


def test_no_label_holds_what_a_client_has_written(client: Client) -> None:
    before = len(figures(client))
    for n in range(20):
        client.get(f"/secret-{n}")
        client.request(f"VERB{n}", "/events")
        client.get(f"/events/secret-{n}")
        client.pay(f"secret-{n}", user=f"secret-{n}")
    text = client.get("/metrics").text
    assert "secret" not in text
    assert "VERB" not in text
    # Four routes, with a histogram of 15 samples for each, and three codes; not twenty of each.
    assert len(figures(client)) - before <= 5 * 15 + 3


def test_several_workers_tell_one_sum_and_a_dead_one_keeps_its_part(database: Database) -> None:
    reserved = "holdfast_tickets_total"
    with serving(database, workers=2) as client:
        event = client.create_event(tickets=80)

        def another() -> Client:
            return Client(base_url=client.base_url, timeout=WAIT_SECONDS)

        def buy() -> int:
            with another() as own:
                return own.reserve(event).status_code

        assert at_once(*[buy for _ in range(40)]) == [201] * 40
        for _ in range(8):  # whichever worker is asked
            with another() as own:
                assert of(figures(own), reserved, change="reserved") == 40
        assert client.process is not None
        parent = client.process.pid
        one, _ = workers_of(parent)
        os.kill(one, signal.SIGKILL)
        wait_until(lambda: one not in workers_of(parent))
        wait_until(lambda: is_live(client))
        with another() as own:
            assert own.reserve(event).status_code == 201
            assert of(figures(own), reserved, change="reserved") == 41
