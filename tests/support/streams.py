"""A client of an event's stream of changes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.client import Client


class Stream:
    """The stream of an event, read message by message."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.retry = next(self._lines)

    def next_message(self) -> dict[str, Any]:
        """Return the next message; its id must be its version."""
        id_ = next(line for line in self._lines if line != ":")
        data = next(self._lines)
        assert next(self._lines) == ""
        message: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert id_ == f"id: {message['version']}"
        return message

    def read_until(self, version: int) -> list[dict[str, Any]]:
        """Return the messages up to and including the one with this version."""
        messages = [self.next_message()]
        while messages[-1]["version"] < version:
            messages.append(self.next_message())
        assert messages[-1]["version"] == version
        return messages

    def remaining_lines(self) -> list[str]:
        """Return all lines until the stream ends."""
        return list(self._lines)


@contextmanager
def watch_event(
    client: Client, event: str, last_id: object = None, **query: object
) -> Iterator[Stream]:
    """Watch an event for as long as the block runs; resume after ``last_id``, if it is given."""
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    path = f"/events/{event}/stream"
    params = {name: str(value) for name, value in query.items()}
    with client.stream("GET", path, headers=headers, params=params) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        yield Stream(response.iter_lines())
