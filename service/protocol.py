"""The protocol: uvicorn's own, which tells the service when the server begins to end."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """One connection of a client."""

    def shutdown(self) -> None:
        """Begin to end: what is under way is answered, and a stream comes to its end.

        uvicorn calls it for each connection before it waits for them, and tells the app of
        the end only afterwards; a stream would keep it waiting.
        """
        if service := self.app_state.get("service"):
            service.watchers.close()
        super().shutdown()
