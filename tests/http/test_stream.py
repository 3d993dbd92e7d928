"""The stream: an event's changes as they are committed, none missed, none twice."""

import socket
import threading

import pytest

from service import limits
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService, Starter, serving
from tests.support.streams import Stream, watching
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until

UNKNOWN = "018f0000-0000-7000-8000-000000000001"


def watchers(service: RunningService) -> int:
    """Return how many watch."""
    return service.state.watchers.count


def test_a_stream_begins_with_the_event_as_it_is(client: Client) -> None:
    event = client.create_event()
    client.hold(event, user="alice")
    with watching(client, event) as stream:
        assert stream.retry == "retry: 1000"
        message = stream.message()
    last = message.pop("lastEvent")
    assert message == client.event(event)
    assert (last["type"], last["timestamp"]) == ("reserved", message["updatedAt"])
    assert len(last["actor"]) == 10
    assert "alice" not in last["actor"]


def test_its_first_message_counts_a_lapsed_hold_as_free(client: Client, database: Database) -> None:
    event = client.create_event()
    (ticket,) = client.hold(event)
    database.lapse(ticket)
    with watching(client, event) as stream:
        assert stream.message()["availableTickets"] == 10


def test_every_change_is_told_with_what_it_was(client: Client, database: Database) -> None:
    event = client.create_event()
    with watching(client, event) as stream:
        assert stream.message()["lastEvent"]["type"] == "created"
        (ticket,) = client.hold(event)
        reserved = stream.message()
        client.pay(ticket)
        purchased = stream.message()
        client.refund(ticket)
        refunded = stream.message()
        (other,) = client.hold(event)
        stream.message()
        client.cancel(other)
        cancelled = stream.message()
        client.update_event(event, totalTickets=20)
        resized = stream.message()
        client.update_event(event, name="Closing night")
        updated = stream.message()
    told = [
        (one["version"], one["lastEvent"]["type"], one["lastEvent"]["actor"] is None)
        for one in (reserved, purchased, refunded, cancelled, resized, updated)
    ]
    assert told == [
        (2, "reserved", False),
        (3, "purchased", False),
        (4, "refunded", True),
        (6, "user_cancelled", False),
        (7, "resized", True),
        (8, "updated", True),
    ]
    assert (updated["name"], updated["totalTickets"]) == ("Closing night", 20)
    assert reserved["lastEvent"]["actor"] == cancelled["lastEvent"]["actor"]


def test_what_the_sweeper_frees_is_told(database: Database, start: Starter) -> None:
    with start(database, hold_seconds=1).client() as client:
        event = client.create_event()
        client.hold(event)
        with watching(client, event) as stream:
            expired = stream.until(3)[-1]
    assert (expired["lastEvent"]["type"], expired["availableTickets"]) == ("expired", 10)


def test_a_stream_works_over_any_number_of_services(database: Database, start: Starter) -> None:
    with start(database).client() as here, start(database).client() as there:
        event = here.create_event()
        with watching(here, event) as stream:
            stream.message()
            there.hold(event)
            assert stream.message()["reservedTickets"] == 1


def test_a_resumed_stream_replays_what_was_missed_once_and_goes_on(client: Client) -> None:
    event = client.create_event(tickets=30)
    for _ in range(5):
        client.hold(event)
    with watching(client, event, last_id=2) as stream:
        replayed = [stream.message() for _ in range(4)]
        client.hold(event)
        live = stream.message()
    assert [one["version"] for one in [*replayed, live]] == [3, 4, 5, 6, 7]
    assert [one["reservedTickets"] for one in [*replayed, live]] == [2, 3, 4, 5, 6]
    entries = client.ledger(event, after=2).json()["data"]
    assert [one["lastEvent"] for one in [*replayed, live]] == [one["lastEvent"] for one in entries]


def test_a_stream_resumed_at_the_current_version_repeats_nothing(client: Client) -> None:
    event = client.create_event()
    with watching(client, event, last_id=1) as stream:
        client.hold(event)
        assert stream.message()["version"] == 2


@pytest.mark.parametrize("last_id", ["", "x", "-1", "1.0", "99", "9" * 30, "²"])
def test_what_is_no_version_gets_the_current_state(client: Client, last_id: str) -> None:
    event = client.create_event()
    client.hold(event)
    headers = {b"Last-Event-ID": last_id.encode()}
    with client.stream("GET", f"/events/{event}/stream", headers=headers) as answer:
        assert Stream(answer.iter_lines()).message()["version"] == 2


def test_what_is_told_first_is_not_told_again(
    client: Client, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the reader looks while the first message is being fetched."""
    monkeypatch.setattr(limits, "STREAM_LOOK_SECONDS", 0.0)
    event = client.create_event()
    for version in range(1, 20):
        with watching(client, event) as stream:
            assert stream.message()["version"] == version
            client.update_event(event, totalTickets=100 + version)
            assert stream.message()["version"] == version + 1


def test_who_has_missed_too_much_gets_the_current_state_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_REPLAY", 3)
    event = client.create_event(tickets=30)
    for _ in range(5):
        client.hold(event)
    with watching(client, event, last_id=3) as stream:
        assert [stream.message()["version"] for _ in range(3)] == [4, 5, 6]
    with watching(client, event, last_id=2) as stream:
        assert stream.message()["version"] == 6
        client.hold(event)
        assert stream.message()["version"] == 7


def test_nothing_is_missed_or_repeated_however_often_one_comes_back(
    client: Client, service: RunningService
) -> None:
    event = client.create_event(tickets=100_000)
    done = threading.Event()

    def buy() -> None:
        with service.client() as buyer:
            while not done.is_set():
                buyer.hold(event)

    crowd = [threading.Thread(target=buy) for _ in range(3)]
    for one in crowd:
        one.start()
    seen: list[int] = []
    try:
        with watching(client, event) as stream:
            seen.append(stream.message()["version"])
        for _ in range(10):
            # What is replayed is whole; what is live may be the newest of several.
            missed = client.event(event)["version"] - seen[-1]
            with watching(client, event, last_id=seen[-1]) as stream:
                for _ in range(missed):
                    version = stream.message()["version"]
                    assert version == seen[-1] + 1
                    seen.append(version)
                seen.append(stream.message()["version"])
    finally:
        done.set()
        for one in crowd:
            one.join()
    assert seen == sorted(set(seen))


def test_under_a_crowd_the_newest_state_is_told_and_the_last_one_always(
    client: Client, service: RunningService
) -> None:
    event = client.create_event(tickets=300)
    with watching(client, event) as stream:
        stream.message()
        with service.client() as crowd:
            at_once(*[lambda: [crowd.hold(event) for _ in range(30)] for _ in range(10)])
        last = client.event(event)["version"]
        told = stream.until(last)
    assert told[-1]["availableTickets"] == 0
    versions = [one["version"] for one in told]
    assert versions == sorted(set(versions))
    assert len(versions) < last


def test_the_stream_of_an_unknown_event_is_not_found(
    client: Client, service: RunningService
) -> None:
    assert code(client.get(f"/events/{UNKNOWN}/stream")) == (404, "NOT_FOUND")
    assert watchers(service) == 0


def test_a_stream_has_no_head(client: Client) -> None:
    answer = client.head(f"/events/{client.create_event()}/stream")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_more_than_may_watch_are_told_busy(
    client: Client, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WATCHERS", 1)
    event = client.create_event()
    with watching(client, event) as stream:
        stream.message()
        assert code(client.get(f"/events/{event}/stream")) == (503, "BUSY")


def test_a_quiet_stream_is_kept_open_by_a_comment(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_QUIET_SECONDS", 0.01)
    event = client.create_event()
    with client.stream("GET", f"/events/{event}/stream") as answer:
        lines = answer.iter_lines()
        assert ":" in [next(lines) for _ in range(10)]


def test_a_closed_browser_frees_everything(service: RunningService, client: Client) -> None:
    event = client.create_event()
    tasks = service.tasks()
    connections = service.connections()
    for _ in range(20):
        browser = service.client()
        opened = browser.send(browser.build_request("GET", f"/events/{event}/stream"), stream=True)
        lines = opened.iter_lines()
        next(lines)
        assert watchers(service) == 1
        opened.close()
        browser.close()
        wait_until(lambda: watchers(service) == 0)
    wait_until(lambda: service.tasks() <= tasks)
    wait_until(lambda: service.connections() <= connections)


def test_a_watcher_that_stops_reading_is_dropped_and_slows_nobody(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS", 1)
    monkeypatch.setattr(limits, "STREAM_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(limits, "STREAM_GAP_SECONDS", 0.0)
    service = start(database)
    with service.client() as client:
        event = client.create_event(tickets=100_000)
        host, port = service.url.removeprefix("http://").split(":")
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            stalled.connect((host, int(port)))
            stalled.sendall(f"GET /events/{event}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(lambda: watchers(service) == 1)
            with watching(client, event) as stream, service.client() as buyer:
                stream.message()
                for _ in range(50):
                    buyer.hold(event)
                assert stream.until(51)
                wait_until(lambda: bool(buyer.hold(event)) and watchers(service) == 1)
                assert stream.until(buyer.event(event)["version"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_stops_ends_its_streams(database: Database, workers: int) -> None:
    with serving(database, workers=workers) as client:
        event = client.create_event()
        assert client.process is not None
        with watching(client, event) as stream:
            stream.message()
            client.process.terminate()
            # To its proper end, not cut off: the last chunk has been there.
            assert stream.rest() == []
        assert client.process.wait(WAIT_SECONDS) == 0


def test_nobody_watches_and_nothing_is_asked(
    service: RunningService, client: Client, database: Database
) -> None:
    event = client.create_event()
    asked = service.state.watchers.looks
    with watching(client, event) as stream:
        stream.message()
        wait_until(lambda: service.state.watchers.looks > asked)
    wait_until(lambda: watchers(service) == 0)
    asked = service.state.watchers.looks
    client.hold(event)
    with watching(client, event) as stream:
        stream.message()
    assert service.state.watchers.looks <= asked + 1
