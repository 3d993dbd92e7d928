"""The HTTP protocol: uvicorn's, with limits on what one client can occupy.

"The header" is everything before a body: the request line or status line, and all header fields.

Differences from uvicorn's own protocol:

- The header and the first part of the body of a response are sent in one write, which halves the
  work of the kernel for most responses.
- Headers and bodies must arrive within a time limit, headers within a size limit. A body that no
  handler reads is discarded, up to a size limit.
- Pipelining is limited to about 200 requests. Until earlier requests have their responses, further
  bytes are not parsed, and reading from the connection is paused.
- A request to upgrade to another protocol is served as a normal HTTP/1.1 request.
- Streams end when uvicorn begins to shut down, so that it does not wait for them.

uvicorn has no public hooks for this. All use of its private attributes is in ``UvicornConnection``:
``app_state``, ``cycle`` (``body``, ``keep_alive``, ``response_complete``, ``response_started``),
``flow``, ``headers``, ``parser``, ``pipeline``, ``scope``, ``transport``, ``url`` and
``_unset_keepalive_if_required``. ``Protocol`` also overrides ``on_headers_complete``,
``on_message_complete``, ``on_response_complete`` and ``shutdown``. Therefore pyproject.toml pins
uvicorn to the minor version that was tested.
"""

import asyncio
from collections import deque
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import limits

# The key of a request's body in its ASGI scope, if the body arrived before the handler needs it.
BODY = "holdfast.body"

# Replaces a list of headers; drops everything that is appended to it.
_DISCARD: deque[tuple[bytes, bytes]] = deque(maxlen=0)


class CoalescingTransport:
    """A transport that delays the header of a response until the first part of its body.

    It recognizes a header by its first bytes: uvicorn writes each header with one call, and nothing
    else between it and the body.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._header = b""

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write data, after the delayed header if there is one; delay data that is a header."""
        if self._header:
            data, self._header = self._header + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100 "):
            self._header = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write the delayed header, if any: its response has no body."""
        if self._header:
            self._transport.write(self._header)
            self._header = b""

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection after everything is written."""
        self.flush()
        self._transport.close()


class UvicornConnection(HttpToolsProtocol):
    """The operations on a connection that need private attributes of uvicorn."""

    @property
    def is_idle(self) -> bool:
        """Whether no response is outstanding; also before the first request."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def has_responded(self) -> bool:
        """Whether the response to the last request is complete; False before the first request."""
        return self.cycle is not None and self.cycle.response_complete

    @property
    def asks_for_upgrade(self) -> bool:
        """Whether the current request asks for another protocol."""
        return bool(self.parser.should_upgrade())

    @property
    def has_queued_requests(self) -> bool:
        """Whether parsed requests wait for the response to an earlier one."""
        return bool(self.pipeline)

    def parse(self, data: bytes) -> None:
        """Parse data from the client; calls the methods ``on_…``."""
        self._unset_keepalive_if_required()
        self.parser.feed_data(data)

    def pause_reading(self) -> None:
        """Stop reading until the current response is sent."""
        self.flow.pause_reading()

    def put_body_in_scope(self) -> None:
        """Let the handler read the body without waiting."""
        self.scope[BODY] = bytes(self.cycle.body)  # type: ignore[literal-required]

    def discard_trailers(self) -> None:
        """Discard headers from now on: those after a body are not headers of the request."""
        self.headers = _DISCARD  # type: ignore[assignment]

    def restart_without_upgrade(self) -> bytes | None:
        """Set a new parser, and return the current header without Upgrade for it to parse.

        Return None, and set no parser, for CONNECT: the request cannot be served as HTTP/1.1.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            return None
        lines = [b"%b %b HTTP/%b" % (method, self.url, version.encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([*lines, b"\r\n"])

    def close_after_response(self, refusal: bytes = b"") -> None:
        """Close the connection: at once, or after a response that has not begun.

        If no response is outstanding, the refusal is sent first. If a response has begun, it is cut
        off. If it has not begun, it is sent before the connection closes. In these two cases the
        refusal is not sent: the client would take it for the outstanding response.
        """
        if self.is_idle:
            if refusal:
                self.transport.write(refusal)
            self.transport.close()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def end_streams(self) -> None:
        """End all streams of this process."""
        if service := self.app_state.get("service"):
            service.watchers.close()


class Protocol(UvicornConnection):
    """One connection of a client."""

    # Whether a header is expected next, or else a body.
    _expects_header = True
    # Whether a header or a body ended in the data parsed last.
    _part_ended = False
    # The size so far of a header or a body that has not ended.
    _part_bytes = 0
    # Data to be parsed when earlier requests have their responses.
    _unparsed = b""
    _ignores_input = False
    # Whether the connection is closed after the response to the next request.
    _closes_after_next = False
    # Closes the connection if the current header or body does not end in time.
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first header."""
        self._loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(transport)
        super().connection_made(self._transport)  # type: ignore[arg-type]
        self._start_timer(limits.HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer and drop the unparsed data."""
        self._stop_timer()
        self._unparsed = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data in pieces, which limits the number of requests that are parsed at once."""
        if self._ignores_input:
            return
        if self._unparsed or len(data) > limits.PIPELINE_BYTES:
            self._unparsed += data
        else:
            self._parse_piece(data)
        if self._unparsed:
            self._parse_next()

    def on_headers_complete(self) -> None:
        """Start to handle a request, unless it has to be parsed again without its upgrade."""
        if self.asks_for_upgrade:
            return
        super().on_headers_complete()
        self.discard_trailers()
        if self._closes_after_next:
            self.close_after_response()
        self._expects_header, self._part_ended = False, True
        if self._timer is not None:
            self._stop_timer()

    def on_message_complete(self) -> None:
        """Pass a complete body to the handler."""
        if self.asks_for_upgrade:
            return
        self.put_body_in_scope()
        super().on_message_complete()
        self._expects_header = self._part_ended = True
        if self._timer is not None:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Continue with the next request of the connection."""
        self._transport.flush()
        super().on_response_complete()
        if self._unparsed or self.has_queued_requests:
            self._parse_next()
        elif not self._expects_header and self.has_responded:
            # The response was sent before the body arrived. Read and discard the body for a while:
            # a client that is still sending when the connection closes can lose the response.
            self._start_timer(limits.BODY_SECONDS)

    def shutdown(self) -> None:
        """Shut down gracefully: end streams and send outstanding responses.

        uvicorn calls it for each connection, then waits until all are closed, and only then ends
        the lifespan of the application. Streams must end here, or it would wait for them.
        """
        self.end_streams()
        if self.is_idle:
            # The client may already have sent a request. Wait a moment to respond to it.
            self._closes_after_next = True
            self._loop.call_later(limits.IDLE_CLOSE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _parse_next(self) -> None:
        """Parse pieces of the unparsed data until a request has to wait for an earlier one."""
        while self._unparsed and not self.has_queued_requests and not self._transport.is_closing():
            piece = self._unparsed[: limits.PIPELINE_BYTES]
            self._unparsed = self._unparsed[limits.PIPELINE_BYTES :]
            self._parse_piece(piece)
        if (self._unparsed or self.has_queued_requests) and not self._transport.is_closing():
            self.pause_reading()

    def _parse_piece(self, piece: bytes) -> None:
        """Parse a piece, then check the size and time of a header or body that has not ended."""
        self._part_ended = False
        try:
            self.parse(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")
            return
        if self._part_ended:
            self._part_bytes = 0
            return
        self._part_bytes += len(piece)
        if not self._expects_header:
            if self._part_bytes > limits.MAX_DISCARDED_BYTES:
                self._ignore_input()
        elif self._part_bytes > limits.MAX_HEADER_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The header is larger than {limits.MAX_HEADER_BYTES} bytes",
            )
        elif self._timer is None:
            self._start_timer(limits.HEADER_SECONDS)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Serve a request as HTTP/1.1 although it asks for another protocol (RFC 9110, 7.8).

        The parser skips the body of such a request, so the request is parsed again without the
        header Upgrade.
        """
        header = self.restart_without_upgrade()
        if header is None:
            self._refuse(HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")
            return
        self._unparsed = header + rest + self._unparsed
        self._part_bytes = 0

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Refuse input that cannot be parsed as an HTTP request, and close the connection."""
        refusal = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
        )
        self._close(refusal.encode())

    def _close(self, refusal: bytes = b"") -> None:
        self._ignore_input()
        self.close_after_response(refusal)

    def _ignore_input(self) -> None:
        self._ignores_input, self._unparsed = True, b""

    def _start_timer(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
