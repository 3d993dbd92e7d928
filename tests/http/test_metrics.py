"""Metrics: the service counts everything once, with any number of workers."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import Client, is_live
from tests.support.database import Database
from tests.support.services import Starter, run_service, worker_pids
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(client: Client) -> Samples:
    """Return all samples of /metrics by name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(of: Samples, name: str, **labels: str) -> float:
    return of.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture
def client(database: Database, start: Starter) -> Iterator[Client]:
    with start(database).client() as client:
        yield client


def test_tickets_are_counted_by_what_happens_to_them(client: Client, database: Database) -> None:
    before = samples(client)
    event = client.create_event(tickets=9)
    paid, cancelled, refunded, lapsed = client.hold(event, quantity=4)
    client.pay(paid)
    client.pay(refunded)
    client.cancel(cancelled)
    client.refund(refunded)
    database.expire_hold(lapsed)
    for _ in range(2):  # once, and a replay, which moves nothing
        client.reserve(event, 2, key="k").raise_for_status()
    after = samples(client)
    changes = {"reserved": 6, "purchased": 2, "user_cancelled": 1, "refunded": 1, "expired": 1}
    assert changes == {
        change: value(after, "holdfast_tickets_total", change=change)
        - value(before, "holdfast_tickets_total", change=change)
        for change in changes
    }


def test_requests_are_counted_by_route_method_and_status(client: Client) -> None:
    before = samples(client)
    event = client.create_event(tickets=1)
    for _ in range(3):
        client.reserve(event)
    client.get(f"/events/{event}/nothing")
    client.request("BREW", "/events")
    after = samples(client)

    def growth(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    count, route = "holdfast_request_seconds_count", "/events/{eventId}/tickets"
    assert growth(count, method="POST", route=route, status="201") == 1
    assert growth(count, method="POST", route=route, status="409") == 2
    assert growth(count, method="other", route="none", status="404") == 1
    assert growth("holdfast_refusals_total", code="TICKETS_SOLD_OUT") == 2
    assert growth("holdfast_batch_requests_sum") >= 3
    assert growth("holdfast_lock_wait_seconds_count") == growth("holdfast_batch_seconds_count")


def test_the_gauges_and_counters_show_a_wait_for_a_lock(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    before = samples(client)
    with ThreadPoolExecutor(1) as pool, database.lock_event(event):
        reserving = pool.submit(client.reserve, event)
        database.wait_until_blocked()
        wait_until(lambda: value(samples(client), "holdfast_queue_requests") == 1)
    assert reserving.result().status_code == 201
    wait_seconds = "holdfast_lock_wait_seconds_sum"
    assert value(samples(client), wait_seconds) > value(before, wait_seconds)


def test_a_failed_batch_is_counted_by_the_class_of_its_error(
    unbalanced_database: Database, start: Starter
) -> None:
    with start(unbalanced_database).client() as client:
        event = client.create_event()
        before = samples(client)
        unbalanced_database.psql(
            "alter table ticket_allocations add check (position > 9) not valid"
        )
        assert client.reserve(event).status_code == 500
        after = samples(client)
    failed = "holdfast_batches_failed_total"
    assert value(after, failed, reason="23") > value(before, failed, reason="23")


def test_no_label_contains_input_from_a_client(client: Client) -> None:
    before = len(samples(client))
    for n in range(20):
        client.get(f"/secret-{n}")
        client.request(f"VERB{n}", "/events")
        client.get(f"/events/secret-{n}")
        client.pay(f"secret-{n}", user=f"secret-{n}")
    text = client.get("/metrics").text
    assert "secret" not in text
    assert "VERB" not in text
    # Up to five routes with a histogram of 15 samples each, and three codes; not twenty of each.
    assert len(samples(client)) - before <= 5 * 15 + 3


def test_the_sum_over_workers_survives_the_death_of_one(database: Database) -> None:
    reserved = "holdfast_tickets_total"
    with run_service(database, workers=2) as client:
        event = client.create_event(tickets=80)

        def new_client() -> Client:
            return Client(base_url=client.base_url, timeout=WAIT_SECONDS)

        def buy() -> int:
            with new_client() as own:
                return own.reserve(event).status_code

        assert at_once(*[buy for _ in range(40)]) == [201] * 40
        for _ in range(8):  # so that both workers respond
            with new_client() as own:
                assert value(samples(own), reserved, change="reserved") == 40
        assert client.process is not None
        parent = client.process.pid
        worker, _ = worker_pids(parent)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in worker_pids(parent))
        wait_until(lambda: is_live(client))
        with new_client() as own:
            assert own.reserve(event).status_code == 201
            assert value(samples(own), reserved, change="reserved") == 41
