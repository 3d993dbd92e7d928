"""The protocol: uvicorn's own, with the corners off that our crowd would meet.

An answer is written at once and not in two parts, header and body, which halves what the kernel
has to do for each; and the service is told when the server begins to end.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class Protocol(HttpToolsProtocol):
    """One connection of a client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        self._answers = WholeAnswers(transport)
        super().connection_made(self._answers)  # type: ignore[arg-type]

    def on_message_complete(self) -> None:
        """Have the app know that nothing of the request is still to come."""
        self.scope[BODY] = bytes(self.cycle.body)  # type: ignore[literal-required]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request of the connection."""
        self._answers.flush()
        super().on_response_complete()

    def shutdown(self) -> None:
        """Begin to end: what is under way is answered, and a stream comes to its end.

        uvicorn calls it for each connection before it waits for them, and tells the app of
        the end only afterwards; a stream would keep it waiting.
        """
        if service := self.app_state.get("service"):
            service.watchers.close()
        super().shutdown()
