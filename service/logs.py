"""The logs, on stderr: a line for each request, and the messages of the service.

Lines are text or, with LOG_FORMAT=json, JSON. Of what a client sends, the line of its request
contains only the method, the route, the id in the path and the request ID, because a fingerprint
may be anywhere else.
"""

import asyncio
import functools
import itertools
import logging
import os
import re
import select
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime

import msgspec

from service import limits
from service.log_output import LogHandler, LogOutput, stderr_output
from service.rows import Uuid

# The request ID of the current request; '' outside of requests.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

_VALID_ID = re.compile(rb"[\x21-\x7e]{1,%d}" % limits.MAX_REQUEST_ID)
_ID_PREFIX = b"%x-%s" % (os.getpid(), os.urandom(4).hex().encode())
_id_numbers = itertools.count(1)

encode = msgspec.json.Encoder().encode


def choose_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the request ID in the headers if it is valid, else a new unique one."""
    for name, value in headers:
        if name == b"x-request-id" and _VALID_ID.fullmatch(value):
            return value
    return b"%s-%x" % (_ID_PREFIX, next(_id_numbers))


class RequestLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The log line of a request."""

    time: str
    level: str
    request: str  # the request ID
    method: str
    route: str
    status: int
    ms: float
    id: str = ""  # the valid id in the path, if any
    code: str = ""  # of a refusal

    def text(self) -> bytes:
        """Return the line as text."""
        id_ = f" {self.id}" if self.id else ""
        code = f" {self.code}" if self.code else ""
        return (
            f"{self.time} INFO {self.request}: {self.method} {self.route}{id_} "
            f"{self.status}{code} {self.ms} ms"
        ).encode()


class RequestLog:
    """Collects the lines of requests for LOG_FLUSH_SECONDS and writes them together."""

    def __init__(self, is_enabled: bool, as_json: bool, output: LogOutput) -> None:
        self.is_enabled = is_enabled  # callers check it before they call ``add``
        self._render: Callable[[RequestLine], bytes] = encode if as_json else RequestLine.text
        self._output = output
        self._lines: list[bytes] = []

    def add(
        self, method: str, route: str, id_: Uuid, status: int, code: str, seconds: float
    ) -> None:
        """Add the line of a request whose response is ready."""
        if not self._lines:
            asyncio.get_running_loop().call_later(limits.LOG_FLUSH_SECONDS, self.flush)
        line = RequestLine(
            _format_time(time.time()),
            "info",
            REQUEST_ID.get(),
            method,
            route,
            status,
            round(seconds * 1000, 1),
            id_,
            code,
        )
        self._lines.append(self._render(line))

    def flush(self) -> None:
        """Write the collected lines.

        If stderr is a pipe, a write of at most PIPE_BUF bytes is never mixed with the writes of
        other workers. So no write is larger, unless a single line is.
        """
        lines, self._lines = self._lines, []
        chunk = bytearray()
        for line in lines:
            if chunk and len(chunk) + len(line) >= select.PIPE_BUF:
                self._output.write(bytes(chunk))
                chunk.clear()
            chunk += line
            chunk += b"\n"
        if chunk:
            self._output.write(bytes(chunk))


def configure_logs(level: str, as_json: bool) -> None:
    """Configure the logging of a process."""
    handler = LogHandler(stderr_output())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in ("psycopg", "psycopg.pool", "yoyo", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)


class TextFormatter(logging.Formatter):
    """Formats a message as text, with the request ID."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time in the format of the lines of requests."""
        return _format_time(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        return f"{line} (request {REQUEST_ID.get()})" if REQUEST_ID.get() else line


class JsonFormatter(logging.Formatter):
    """Formats a message as JSON, with the request ID."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _format_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST_ID.get():
            line["request"] = REQUEST_ID.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encode(line).decode()


def _format_time(seconds: float) -> str:
    """Return a Unix time in the format of RFC 3339, with milliseconds."""
    whole = int(seconds)
    return f"{_format_second(whole)}.{int((seconds - whole) * 1000):03}Z"


@functools.lru_cache(maxsize=2)  # under load many requests share a second
def _format_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
