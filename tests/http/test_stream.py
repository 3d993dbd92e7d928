"""The stream sends an event's committed changes, each once."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from service import limits
from service.database.queries import Queries
from service.rows import Uuid
from service.serving import bind
from service.settings import Settings
from service.web.watching import KEEP_ALIVE, Message, WatchedEvent, Watcher, Watchers, _notify
from tests.support import services
from tests.support.batches import STATEMENTS
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import RunningService, Starter, run_service
from tests.support.streams import Stream, watch_event
from tests.support.waiting import WAIT_SECONDS, at_once, wait_until

UNKNOWN = "018f0000-0000-7000-8000-000000000001"


def count_watchers(service: RunningService) -> int:
    """Return the number of watchers."""
    return service.state.watchers.count


def bind_with_a_small_buffer(settings: Settings) -> socket.socket:
    """Return a listening socket whose connections can send little that is not yet received."""
    listener = bind(settings)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return listener


def wait_for_polls(watchers: Watchers, count: int) -> None:
    """Wait until the poller has sent as many more queries."""
    target = watchers.polls + count
    wait_until(lambda: watchers.polls >= target)


def test_a_stream_begins_with_the_event_as_it_is(client: Client) -> None:
    event = client.create_event()
    client.hold(event, user="alice")
    with watch_event(client, event) as stream:
        assert stream.retry == "retry: 1000"
        message = stream.next_message()
    last = message.pop("lastEvent")
    assert message == client.find_event(event)
    assert (last["type"], last["timestamp"]) == ("reserved", message["updatedAt"])
    assert len(last["actor"]) == 10
    assert "alice" not in last["actor"]


def test_the_first_message_counts_an_expired_hold_as_available(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    (ticket,) = client.hold(event)
    database.expire_hold(ticket)
    with watch_event(client, event) as stream:
        assert stream.next_message()["availableTickets"] == 10


def test_a_message_says_what_the_change_was(client: Client, database: Database) -> None:
    event = client.create_event()
    with watch_event(client, event) as stream:
        assert stream.next_message()["lastEvent"]["type"] == "created"
        (ticket,) = client.hold(event)
        reserved = stream.next_message()
        client.pay(ticket)
        purchased = stream.next_message()
        client.refund(ticket)
        refunded = stream.next_message()
        (other,) = client.hold(event)
        stream.next_message()
        client.cancel(other)
        cancelled = stream.next_message()
        client.update_event(event, totalTickets=20)
        resized = stream.next_message()
        client.update_event(event, name="Closing night")
        updated = stream.next_message()
    assert [
        (message["version"], message["lastEvent"]["type"], message["lastEvent"]["actor"] is None)
        for message in (reserved, purchased, refunded, cancelled, resized, updated)
    ] == [
        (2, "reserved", False),
        (3, "purchased", False),
        (4, "refunded", True),
        (6, "user_cancelled", False),
        (7, "resized", True),
        (8, "updated", True),
    ]
    assert (updated["name"], updated["totalTickets"]) == ("Closing night", 20)
    assert reserved["lastEvent"]["actor"] == cancelled["lastEvent"]["actor"]


def test_an_expiry_by_the_sweeper_is_sent(database: Database, start: Starter) -> None:
    with start(database, hold_seconds=1).client() as client:
        event = client.create_event()
        client.hold(event)
        with watch_event(client, event) as stream:
            expired = stream.read_until(3)[-1]
    assert (expired["lastEvent"]["type"], expired["availableTickets"]) == ("expired", 10)


def test_a_stream_shows_changes_made_by_another_service(database: Database, start: Starter) -> None:
    with start(database).client() as here, start(database).client() as there:
        event = here.create_event()
        with watch_event(here, event) as stream:
            stream.next_message()
            there.hold(event)
            assert stream.next_message()["reservedTickets"] == 1


def test_a_resumed_stream_replays_each_missed_version_once(client: Client) -> None:
    event = client.create_event(tickets=30)
    for _ in range(5):
        client.hold(event)
    with watch_event(client, event, last_id=2) as stream:
        replayed = [stream.next_message() for _ in range(4)]
        client.hold(event)
        live = stream.next_message()
    messages = [*replayed, live]
    assert [message["version"] for message in messages] == [3, 4, 5, 6, 7]
    assert [message["reservedTickets"] for message in messages] == [2, 3, 4, 5, 6]
    last_events = [
        entry["lastEvent"] for entry in client.list_ledger(event, after=2).json()["data"]
    ]
    assert [message["lastEvent"] for message in messages] == last_events


def test_a_stream_resumed_at_the_current_version_repeats_nothing(client: Client) -> None:
    event = client.create_event()
    with watch_event(client, event, last_id=1) as stream:
        client.hold(event)
        assert stream.next_message()["version"] == 2


@pytest.mark.parametrize("last_id", ["", "x", "-1", "1.0", "99", "9" * 30, "²"])
def test_an_invalid_last_event_id_gets_the_current_state(client: Client, last_id: str) -> None:
    event = client.create_event()
    client.hold(event)
    headers = {b"Last-Event-ID": last_id.encode()}
    with client.stream("GET", f"/events/{event}/stream", headers=headers) as response:
        assert Stream(response.iter_lines()).next_message()["version"] == 2


def test_a_client_that_cannot_send_headers_resumes_by_query(client: Client) -> None:
    event = client.create_event()
    for _ in range(3):
        client.hold(event)
    with watch_event(client, event, lastEventId=2) as stream:
        assert [stream.next_message()["version"] for _ in range(2)] == [3, 4]
    with watch_event(client, event, lastEventId="x") as stream:
        assert stream.next_message()["version"] == 4


@pytest.mark.parametrize(("last_id", "first_version"), [(3, 4), ("", 4), ("x", 4)])
def test_the_query_is_ignored_if_the_header_is_sent(
    client: Client, last_id: object, first_version: int
) -> None:
    """A browser reconnects with the URL of its first request, and with a newer header."""
    event = client.create_event()
    for _ in range(3):
        client.hold(event)
    with watch_event(client, event, last_id=last_id, lastEventId=1) as stream:
        assert stream.next_message()["version"] == first_version


def test_the_first_message_is_not_sent_twice(
    client: Client, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll for changes may also run while the first message is read."""
    monkeypatch.setattr(limits, "STREAM_POLL_SECONDS", 0.0)
    event = client.create_event()
    for version in range(1, 20):
        with watch_event(client, event) as stream:
            assert stream.next_message()["version"] == version
            client.update_event(event, totalTickets=100 + version)
            assert stream.next_message()["version"] == version + 1


def test_a_replay_that_is_too_long_becomes_the_current_state(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_REPLAYED_VERSIONS", 3)
    event = client.create_event(tickets=30)
    for _ in range(5):
        client.hold(event)
    with watch_event(client, event, last_id=3) as stream:
        assert [stream.next_message()["version"] for _ in range(3)] == [4, 5, 6]
    with watch_event(client, event, last_id=2) as stream:
        assert stream.next_message()["version"] == 6
        client.hold(event)
        assert stream.next_message()["version"] == 7


def test_repeated_resumption_misses_and_repeats_no_version(
    client: Client, service: RunningService
) -> None:
    event = client.create_event(tickets=100_000)
    done = threading.Event()

    def buy() -> None:
        with service.client() as buyer:
            while not done.is_set():
                buyer.hold(event)

    buyers = [threading.Thread(target=buy) for _ in range(3)]
    for buyer in buyers:
        buyer.start()
    seen: list[int] = []
    try:
        with watch_event(client, event) as stream:
            seen.append(stream.next_message()["version"])
        for _ in range(10):
            # The replay has every version; a live message may skip versions.
            missed = client.find_event(event)["version"] - seen[-1]
            with watch_event(client, event, last_id=seen[-1]) as stream:
                for _ in range(missed):
                    version = stream.next_message()["version"]
                    assert version == seen[-1] + 1
                    seen.append(version)
                seen.append(stream.next_message()["version"])
    finally:
        done.set()
        for buyer in buyers:
            buyer.join()
    assert seen == sorted(set(seen))


def test_a_busy_event_sends_the_newest_states_and_always_the_last(
    client: Client, service: RunningService
) -> None:
    event = client.create_event(tickets=300)
    with watch_event(client, event) as stream:
        stream.next_message()
        with service.client() as crowd:
            at_once(*[lambda: [crowd.hold(event) for _ in range(30)] for _ in range(10)])
        last = client.find_event(event)["version"]
        messages = stream.read_until(last)
    assert messages[-1]["availableTickets"] == 0
    versions = [message["version"] for message in messages]
    assert versions == sorted(set(versions))
    assert len(versions) < last


def test_the_stream_of_an_unknown_event_is_not_found(
    client: Client, service: RunningService
) -> None:
    assert code(client.get(f"/events/{UNKNOWN}/stream")) == (404, "NOT_FOUND")
    assert count_watchers(service) == 0


def test_a_stream_does_not_support_head(client: Client) -> None:
    response = client.head(f"/events/{client.create_event()}/stream")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")


def test_a_watcher_over_the_limit_gets_busy(
    client: Client, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WATCHERS", 1)
    event = client.create_event()
    with watch_event(client, event) as stream:
        stream.next_message()
        with client.stream("GET", f"/events/{event}/stream") as refused:
            assert refused.status_code == 503
            refused.read()
        assert code(refused) == (503, "BUSY")


def test_comments_keep_a_quiet_stream_open(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_KEEP_ALIVE_SECONDS", 0.01)
    event = client.create_event()
    with client.stream("GET", f"/events/{event}/stream") as response:
        lines = response.iter_lines()
        assert ":" in [next(lines) for _ in range(10)]


def test_a_strict_client_sees_no_empty_event(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clients, such as httpx-sse, dispatch an event for each blank line, also without data."""
    monkeypatch.setattr(limits, "STREAM_KEEP_ALIVE_SECONDS", 0.01)
    event = client.create_event()
    with client.stream("GET", f"/events/{event}/stream") as response:
        lines = response.iter_lines()
        block: list[str] = []
        blocks: list[list[str]] = []
        comments = 0
        while len(blocks) < 3:
            line = next(lines)
            if line:
                block.append(line)
                comments += line == ":"
                if comments == 2 * len(blocks):
                    client.hold(event)  # after a comment or two, the next message
                continue
            blocks.append(block)
            block = []
    assert comments > 0
    assert all(any(line.startswith("data: ") for line in block) for block in blocks)


def test_a_closed_browser_releases_all_its_resources(
    service: RunningService, client: Client
) -> None:
    event = client.create_event()
    tasks = service.count_tasks()
    connections = service.count_connections()
    for _ in range(20):
        browser = service.client()
        opened = browser.send(browser.build_request("GET", f"/events/{event}/stream"), stream=True)
        lines = opened.iter_lines()
        next(lines)
        assert count_watchers(service) == 1
        opened.close()
        browser.close()
        wait_until(lambda: count_watchers(service) == 0)
    wait_until(lambda: service.count_tasks() <= tasks)
    wait_until(lambda: service.count_connections() <= connections)


def test_a_watcher_that_stops_reading_is_disconnected(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TCP_USER_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(limits, "STREAM_POLL_SECONDS", 0.001)
    monkeypatch.setattr(limits, "STREAM_GAP_SECONDS", 0.0)
    service = start(database)
    with service.client() as client:
        event = client.create_event(tickets=100_000)
        host, port = service.url.removeprefix("http://").split(":")
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            stalled.connect((host, int(port)))
            stalled.sendall(
                f"GET /events/{event}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            wait_until(lambda: count_watchers(service) == 1)
            with watch_event(client, event) as stream, service.client() as buyer:
                stream.next_message()
                for _ in range(50):
                    buyer.hold(event)
                assert stream.read_until(51)
                wait_until(lambda: bool(buyer.hold(event)) and count_watchers(service) == 1)
                assert stream.read_until(buyer.find_event(event)["version"])


def test_a_keep_alive_replaces_no_message_of_a_slow_watcher(
    database: Database, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TCP_USER_TIMEOUT_SECONDS", 60)
    monkeypatch.setattr(limits, "STREAM_POLL_SECONDS", 0.001)
    monkeypatch.setattr(limits, "STREAM_GAP_SECONDS", 0.0)
    # Connections inherit a small buffer, so that few messages are enough to fill it.
    monkeypatch.setattr(services, "bind", bind_with_a_small_buffer)
    service = start(database)
    watchers = service.state.watchers
    with service.client() as client, socket.socket() as slow:
        event = client.create_event(tickets=1000, name="\N{PERFORMING ARTS}" * 255)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.settimeout(WAIT_SECONDS)
        slow.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
        slow.sendall(f"GET /events/{event}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: watchers.count == 1)
        for _ in range(150):
            client.hold(event)
            wait_for_polls(watchers, 2)
        monkeypatch.setattr(limits, "STREAM_KEEP_ALIVE_SECONDS", 0.0)
        wait_for_polls(watchers, 2)

        last = client.find_event(event)["version"]
        received = b""
        # With the last message gone, keep-alives would follow without end.
        while f"\nid: {last}\n".encode() not in received and received.count(b"\n:\n") < 100:
            received += slow.recv(65536).replace(b"\r", b"")
    versions = [int(version) for version in re.findall(rb"\nid: (\d+)\n", received)]
    assert len(versions) < last, "the watcher was not slow"
    assert versions[-1] == last


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_stops_completes_its_streams(database: Database, workers: int) -> None:
    with run_service(database, workers=workers) as client:
        event = client.create_event()
        assert client.process is not None
        with watch_event(client, event) as stream:
            stream.next_message()
            client.process.terminate()
            # The response is complete: reading on raises if the last chunk is missing.
            assert stream.remaining_lines() == []
        assert client.process.wait(WAIT_SECONDS) == 0


def test_the_database_is_not_polled_without_watchers(
    service: RunningService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_POLL_SECONDS", 0.01)
    event = client.create_event()
    polls = service.state.watchers.polls
    with watch_event(client, event) as stream:
        stream.next_message()
        wait_until(lambda: service.state.watchers.polls > polls)
    wait_until(lambda: count_watchers(service) == 0)
    polls = service.state.watchers.polls
    time.sleep(0.5)
    # One may have begun before.
    assert service.state.watchers.polls <= polls + 1


def watched_event(watchers: int, version: int) -> WatchedEvent:
    """Return an event whose newest version was sent to none of its watchers, at time 0."""
    added = {Watcher(version=version - 1, put_at=0.0): None for _ in range(watchers)}
    return WatchedEvent(added, Message(version, b"message"))


def unsent(watched: WatchedEvent) -> list[Watcher]:
    """Return the watchers that have a message to send."""
    return [watcher for watcher in watched.watchers if watcher.has_unsent_message]


def test_a_watcher_waits_between_two_messages() -> None:
    watched = watched_event(watchers=1, version=2)
    _notify(watched, limits.STREAM_GAP_SECONDS - 0.01)
    assert unsent(watched) == []
    _notify(watched, limits.STREAM_GAP_SECONDS)
    assert len(unsent(watched)) == 1


def test_a_poll_notifies_a_part_of_a_crowd() -> None:
    """Those who have waited longest; the others with the next polls."""
    crowd = watched_event(watchers=limits.STREAM_CROWD + 1, version=2)
    everybody = list(crowd.watchers)
    _notify(crowd, limits.STREAM_CROWD_GAP_SECONDS - 0.01)
    assert unsent(crowd) == []
    _notify(crowd, limits.STREAM_CROWD_GAP_SECONDS)
    part = len(unsent(crowd))
    assert 0 < part < len(everybody) / 2
    assert unsent(crowd) == everybody[:part]
    # With slow polls, too, nobody has a second turn before everybody has had one.
    crowd.newest = Message(3, b"message")
    _notify(crowd, 3 * limits.STREAM_CROWD_GAP_SECONDS)
    assert [watcher.version for watcher in everybody[: 2 * part]] == [2] * part + [3] * part


def test_a_version_is_sent_to_a_watcher_once(client: Client, service: RunningService) -> None:
    event = client.create_event()
    with watch_event(client, event) as stream:
        assert stream.next_message()["version"] == 1
        for version in (2, 3):
            wait_for_polls(service.state.watchers, 3)
            client.hold(event)
            assert stream.next_message()["version"] == version


def test_a_keep_alive_replaces_no_message() -> None:
    watched = watched_event(watchers=1, version=2)
    (watcher,) = watched.watchers
    _notify(watched, 1.0)
    _notify(watched, 1.0 + limits.STREAM_KEEP_ALIVE_SECONDS)
    assert watcher._message == b"message"
    watcher._message = b""
    _notify(watched, 1.0 + limits.STREAM_KEEP_ALIVE_SECONDS)
    assert watcher._message == KEEP_ALIVE


def test_nothing_is_put_before_the_first_messages_are_chosen() -> None:
    watched = WatchedEvent({Watcher(): None}, Message(2, b"message"))
    _notify(watched, 1.0)
    assert unsent(watched) == []


def test_only_a_changed_event_is_news(database: Database) -> None:
    event = database.insert_event(tickets=5)
    with database.connect() as connection:
        query = STATEMENTS["list_news"].query
        for version, news in ((0, 1), (1, 0), (2, 0)):
            rows = connection.execute(query, {"event_ids": [event], "versions": [version]})
            assert len(rows.fetchall()) == news


def test_a_proxy_is_told_not_to_buffer_a_stream(client: Client) -> None:
    event = client.create_event()
    with client.stream("GET", f"/events/{event}/stream") as response:
        assert response.headers["X-Accel-Buffering"] == "no"


def test_slow_polls_leave_out_no_watcher_of_a_crowd(
    client: Client, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each poll serves a part of a crowd: those who have waited longest."""
    list_news = Queries.list_news

    async def list_news_slowly(self: Queries, known: Mapping[Uuid, int]) -> Any:
        await asyncio.sleep(2 * limits.STREAM_CROWD_GAP_SECONDS)
        return await list_news(self, known)

    monkeypatch.setattr(Queries, "list_news", list_news_slowly)
    for name, value in {"POLL_SECONDS": 0.01, "CROWD_GAP_SECONDS": 0.05, "CROWD": 2}.items():
        monkeypatch.setattr(limits, f"STREAM_{name}", value)
    event = client.create_event(tickets=100_000)
    done = threading.Event()

    def buy() -> None:
        with service.client() as buyer:
            while not done.is_set():
                buyer.hold(event)

    def watch() -> list[dict[str, Any]]:
        with service.client() as watcher, watch_event(watcher, event) as stream:
            all_watch.wait(WAIT_SECONDS)
            messages = [stream.next_message() for _ in range(3)]
            all_served.wait(WAIT_SECONDS)  # nobody leaves room for the others
            return messages

    watchers = 10
    all_watch, all_served = threading.Barrier(watchers), threading.Barrier(watchers)
    buyer = threading.Thread(target=buy)
    buyer.start()
    try:
        assert len(at_once(*[watch] * watchers)) == watchers
    finally:
        done.set()
        buyer.join()


def test_failing_polls_keep_a_quiet_stream_open(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Queries, __: Mapping[Uuid, int]) -> Any:
        raise TimeoutError

    monkeypatch.setattr(Queries, "list_news", fail)
    monkeypatch.setattr(limits, "STREAM_KEEP_ALIVE_SECONDS", 0.01)
    event = client.create_event()
    with client.stream("GET", f"/events/{event}/stream") as response:
        lines = response.iter_lines()
        assert ":" in [next(lines) for _ in range(10)]
