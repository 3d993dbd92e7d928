"""The protocol: uvicorn's own, with the corners off that our crowd would meet.

An answer is written at once and not in two parts, header and body, which halves what the kernel
has to do for each; the service is told when the server begins to end; and what one client can
make it keep is bounded, in bytes, in requests and in time. A request that comes in one piece
costs none of the bounds more than a look.
"""

import asyncio
from collections import deque
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import limits

BODY = "holdfast.body"
"""In a request's scope: its body, when it is there to its last byte and nobody has to wait."""


class WholeAnswers:
    """A transport that keeps a header back until there is something of the body.

    uvicorn writes a header in one piece, and asks for nothing in between.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._header = b""

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or keep the header of an answer for what comes next."""
        if self._header:
            data, self._header = self._header + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100 "):
            self._header = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write a header that had no body."""
        if self._header:
            self._transport.write(self._header)
            self._header = b""

    def close(self) -> None:
        """Close the connection, behind what was written."""
        self.flush()
        self._transport.close()


NOWHERE: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Where the headers behind a body go: nobody reads them, and they are not the request's."""


class Protocol(HttpToolsProtocol):
    """One connection of a client."""

    _awaits_head = True
    """Whether the next that comes is a request's header; else it is a body's."""
    _has_moved = False
    """Whether a header or a body came to its end in the piece that was looked at last."""
    _part_bytes = 0
    """What has come of a header or a body that is not at its end."""
    _behind = b""
    """What has come and is looked at when the requests before it are answered."""
    _is_deaf = False
    """Whether anything that still comes is dropped."""
    _is_ending = False
    """Whether the next answer is the last one."""
    _timer: asyncio.TimerHandle | None = None
    """Closes the connection, unless the header or the body comes to its end before."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        self._answers = WholeAnswers(transport)
        super().connection_made(self._answers)  # type: ignore[arg-type]
        self._wait(limits.HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_waiting()
        self._behind = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Look at what has come, a piece at a time: in one there are not many requests."""
        if self._is_deaf:
            return
        if self._behind or len(data) > limits.PIECE_BYTES:
            self._behind += data
        else:
            self._take(data)
        if self._behind:
            self._catch_up()

    def on_headers_complete(self) -> None:
        """Begin with a request; one that would change the protocol comes again without that."""
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        self.headers = NOWHERE  # type: ignore[assignment]
        if self._is_ending:
            self.cycle.keep_alive = False
        self._awaits_head, self._has_moved = False, True
        if self._timer is not None:
            self._stop_waiting()

    def on_message_complete(self) -> None:
        """Have the app know that nothing of the request is still to come."""
        if self.parser.should_upgrade():
            return
        self.scope[BODY] = bytes(self.cycle.body)  # type: ignore[literal-required]
        super().on_message_complete()
        self._awaits_head = self._has_moved = True
        if self._timer is not None:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Go on to the next request of the connection."""
        self._answers.flush()
        super().on_response_complete()
        if self._behind or self.pipeline:
            self._catch_up()
        elif not self._awaits_head and self.cycle.response_complete:
            # Answered before its body was there, which is dropped, but not for ever: a
            # connection that is closed on somebody who sends may take the answer with it.
            self._wait(limits.BODY_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def shutdown(self) -> None:
        """Begin to end: what is under way is answered, and a stream comes to its end.

        uvicorn calls it for each connection before it waits for them, and tells the app of
        the end only afterwards; a stream would keep it waiting.
        """
        if service := self.app_state.get("service"):
            service.watchers.close()
        if self.cycle is not None and self.cycle.response_complete:
            # A kept connection, on which a request may be on its way just now: it is answered.
            self._is_ending = True
            self.loop.call_later(limits.LAST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _catch_up(self) -> None:
        """Take what lies behind, until there is a request that has to wait for another."""
        while self._behind and not self.pipeline and not self.transport.is_closing():
            piece = self._behind[: limits.PIECE_BYTES]
            self._behind = self._behind[limits.PIECE_BYTES :]
            self._take(piece)
        if (self._behind or self.pipeline) and not self.transport.is_closing():
            self.flow.pause_reading()

    def _take(self, piece: bytes) -> None:
        """Have a piece parsed, and see that the part of a request it belongs to has an end."""
        self._has_moved = False
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._has_moved:
            self._part_bytes = 0
            return
        self._part_bytes += len(piece)
        if not self._awaits_head:
            if self._part_bytes > limits.MAX_DROPPED_BYTES:
                self._stop_listening()
        elif self._part_bytes > limits.MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The header is too large")
        elif self._timer is None:
            self._wait(limits.HEAD_SECONDS)

    def _decline(self, rest: bytes) -> None:
        """Take a request for another protocol as one for ours (RFC 9110, section 7.8).

        The parser leaves its body out, so it is given the request again, without the header.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self.send_400_response("Invalid HTTP request received.")
            return
        head = [b"%b %b HTTP/%b" % (method, self.url, version.encode())]
        head += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._behind = b"\r\n".join([*head, b"\r\n"]) + rest + self._behind
        self._part_bytes = 0

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer what is no request."""
        self._end(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
        )

    def _end(self, last_words: str = "") -> None:
        """Close the connection, behind the answers that are still to come.

        A refusal that went before them would be taken for one of them: it is left out then.
        """
        self._stop_listening()
        if self.cycle is None or self.cycle.response_complete:
            if last_words:
                self.transport.write(last_words.encode())
            self.transport.close()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _stop_listening(self) -> None:
        self._is_deaf, self._behind = True, b""

    def _wait(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._end)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
