"""Streams: an event's changes as Server-Sent Events.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import limits
from service.watchers import News, Watcher, Watchers

OPENING = f"retry: {limits.STREAM_RETRY_MILLISECONDS}\n\n".encode()


class EventStream(Response):
    """What one watcher is sent: first what it has missed, then what comes, until it goes."""

    media_type = "text/event-stream"

    def __init__(
        self,
        watchers: Watchers,
        watcher: Watcher,
        missed: Sequence[News],
        watching: ExitStack,
    ) -> None:
        # No cache may keep it, and no proxy gather it (X-Accel-Buffering is nginx's word for it).
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers, media_type=self.media_type)
        del self.headers["content-length"]
        self._watchers = watchers
        self._watcher = watcher
        self._missed = missed
        self._watching = watching

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send until the client goes, or until the service ends."""
        with self._watching:
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await _send_part(send, OPENING + b"".join(news.frame for news in self._missed))
        while not self._watchers.closed:
            if frame := await self._watcher.next():
                await _send_part(send, frame)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _left(receive: Receive) -> None:
    """Wait until the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
