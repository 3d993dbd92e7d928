"""The logs: a line for each request, and one for whatever else is worth saying, on stderr.

For people or, with LOG_FORMAT=json, for machines. Of a request a line has the route and the id
in its path, and nothing else that the client has written: a fingerprint may stand anywhere.
"""

import asyncio
import functools
import itertools
import logging
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from service import limits
from service.rows import Uuid

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered."""

_GIVEN = re.compile(rb"[\x21-\x7e]{1,%d}" % limits.MAX_REQUEST_ID)
_OURS = b"%x-%s" % (os.getpid(), os.urandom(4).hex().encode())
_numbers = itertools.count(1)

encode = msgspec.json.Encoder().encode


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id that came with a request, or one that no other request has."""
    for name, value in headers:
        if name == b"x-request-id" and _GIVEN.fullmatch(value):
            return value
    return b"%s-%x" % (_OURS, next(_numbers))


class RequestLine(msgspec.Struct, omit_defaults=True, gc=False):
    """What is told of a request."""

    time: str
    level: str
    request: str
    method: str
    route: str
    status: int
    ms: float
    id: str = ""
    """In the path, where it is one."""
    code: str = ""
    """Of a refusal."""

    def text(self) -> bytes:
        """Return the line for people."""
        shown = f" {self.id}" if self.id else ""
        why = f" {self.code}" if self.code else ""
        return (
            f"{self.time} INFO {self.request}: {self.method} {self.route}{shown} "
            f"{self.status}{why} {self.ms} ms"
        ).encode()


class RequestLog:
    """Writes a line for each request, many at a time: a crowd's requests share a write."""

    def __init__(self, is_on: bool, as_json: bool, out: TextIO) -> None:
        self.is_on = is_on
        self._render: Callable[[RequestLine], bytes] = encode if as_json else RequestLine.text
        self._out = out
        self._lines: list[bytes] = []

    def add(
        self, method: str, route: str, id_: Uuid, status: int, code: str, seconds: float
    ) -> None:
        """Take down a request that was answered."""
        if not self._lines:
            asyncio.get_running_loop().call_later(limits.LOG_SECONDS, self.flush)
        line = RequestLine(
            *(_shown(time.time()), "info", REQUEST_ID.get(), method, route, status),
            *(round(seconds * 1000, 1), id_, code),
        )
        self._lines.append(self._render(line))

    def flush(self) -> None:
        """Write what there is, in pieces that a pipe takes whole beside those of other workers."""
        lines, self._lines = self._lines, []
        piece = bytearray()
        for line in lines:
            if piece and len(piece) + len(line) >= select.PIPE_BUF:
                self._write(piece)
                piece.clear()
            piece += line
            piece += b"\n"
        if piece:
            self._write(piece)

    def _write(self, piece: bytes | bytearray) -> None:
        view = memoryview(bytes(piece))
        while view:
            view = view[os.write(self._out.fileno(), view) :]


def configure_logs(level: str, as_json: bool) -> None:
    """Set up the logs of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for chatty in ("psycopg", "psycopg.pool", "yoyo", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


class TextFormatter(logging.Formatter):
    """A line for people, with the request it belongs to."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time as the lines of requests have it."""
        return _shown(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        return f"{line} (request {REQUEST_ID.get()})" if REQUEST_ID.get() else line


class JsonFormatter(logging.Formatter):
    """A line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _shown(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST_ID.get():
            line["request"] = REQUEST_ID.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encode(line).decode()


def _shown(seconds: float) -> str:
    """Return a time as RFC 3339 has it, to the millisecond."""
    whole = int(seconds)
    return f"{_shown_second(whole)}.{int((seconds - whole) * 1000):03}Z"


@functools.lru_cache(maxsize=2)  # a crowd's requests have their second in common
def _shown_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
