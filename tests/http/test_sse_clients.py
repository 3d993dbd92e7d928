"""Public SSE clients receive an event's changes once each, in order, and nothing else."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service import limits
from tests.support.client import Client
from tests.support.database import Database
from tests.support.registry_packages import run
from tests.support.services import RunningService, Starter
from tests.support.tools import find_tool
from tests.support.waiting import wait_until

PROGRAMS = Path(__file__).with_name("sse_clients")
NPM_INSTALL = "npm init -y && npm install --ignore-scripts"

# For each client: how to install it, and the command that watches a stream.
CLIENTS = {
    "httpx-sse": (
        "python3 -m venv .venv && pip install -q 'httpx-sse~=0.4.3' 'httpx~=0.28.1'",
        [".venv/bin/python", "watch_httpx_sse.py"],
    ),
    "eventsource": (
        f"{NPM_INSTALL} eventsource@~4.1.0",
        ["node", "watch_eventsource.mjs"],
    ),
    "fetch-event-source": (
        f"{NPM_INSTALL} @microsoft/fetch-event-source@~2.0.1",
        ["node", "watch_fetch_event_source.mjs"],
    ),
}


class Watching:
    """A program that watches a stream, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def received(self) -> list[dict[str, str]]:
        """The events that it has received, each with its id and data."""
        *lines, _ = self._output.read_text().split("\n")
        return [json.loads(line) for line in lines]

    def wait_for(self, version: int) -> None:
        """Wait until it has received a version."""
        wait_until(
            lambda: (
                self._process.poll() is not None
                or any(event["id"] == str(version) for event in self.received)
            )
        )
        assert self._process.poll() is None, self._output.with_suffix(".errors").read_text()


@contextmanager
def watch(command: list[str], folder: Path, url: str) -> Iterator[Watching]:
    """Run a program that watches a stream, for as long as the block runs."""
    output = folder / "received"
    with output.open("wb") as received, output.with_suffix(".errors").open("wb") as errors:
        process = subprocess.Popen([*command, url], cwd=folder, stdout=received, stderr=errors)
        try:
            yield Watching(process, output)
        finally:
            process.kill()
            process.wait()


def count_streams(client: Client) -> float:
    """Return how many streams were opened in this process since it was started."""
    name = "holdfast_request_seconds_count"
    labels = '{method="GET",route="/events/{eventId}/stream",status="200"}'
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"{name}{labels} "):
            return float(line.rpartition(" ")[2])
    return 0


def wait_for_keep_alives(service: RunningService) -> None:
    """Wait for a few keep-alives, and for longer than a client waits before it reconnects."""
    watchers = service.state.watchers
    seconds = 2 * limits.STREAM_RETRY_MILLISECONDS / 1000
    polls = watchers.polls + seconds / limits.STREAM_POLL_SECONDS
    wait_until(lambda: watchers.polls > polls)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
def test_a_public_client_receives_each_change_once_and_in_order(
    name: str,
    database: Database,
    start: Starter,
    unused_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install, command = CLIENTS[name]
    find_tool("node" if command[0] == "node" else "python3")
    shutil.copytree(PROGRAMS, tmp_path, dirs_exist_ok=True)
    run(install, tmp_path)
    monkeypatch.setattr(limits, "STREAM_KEEP_ALIVE_SECONDS", 0.0)  # with every poll
    service = start(database, port=unused_port)
    other = start(database)
    with other.client() as client:
        event = client.create_event()
        before = count_streams(client)
        url = f"{service.url}/events/{event}/stream"
        with watch(command, tmp_path, url) as watching:
            for version in (1, 2, 3):
                watching.wait_for(version)
                wait_for_keep_alives(service)
                client.hold(event)
            watching.wait_for(4)
            assert count_streams(client) == before + 1

            # After a restart it resumes with what it has missed.
            service.stop()
            client.hold(event)
            client.hold(event)
            service = start(database, port=unused_port)
            watching.wait_for(6)
            wait_for_keep_alives(service)
            client.hold(event)
            watching.wait_for(7)
            wait_for_keep_alives(service)
            assert count_streams(client) == before + 2
            received = watching.received
    messages: list[dict[str, Any]] = [json.loads(message["data"]) for message in received]
    assert [message["version"] for message in messages] == [1, 2, 3, 4, 5, 6, 7]
    assert [message["reservedTickets"] for message in messages] == [0, 1, 2, 3, 4, 5, 6]
