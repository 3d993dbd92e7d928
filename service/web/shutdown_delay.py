"""Shutdown delay: the time between SIGTERM and the graceful shutdown, with the service running.

uvicorn closes its listening socket as soon as it gets the signal. A proxy that still sends requests
would get refused connections. During the delay the health check returns 503, so that the proxy
stops sending requests first. At its end no further clients are connected, and those that the kernel
has connected already are accepted.
"""

import asyncio
import signal
import threading
from types import FrameType
from typing import Any

import uvicorn

from service import limits
from service.web.backlog import connect_no_more


class ShutdownDelay:
    """The delay between SIGTERM and the graceful shutdown of this process."""

    def __init__(self) -> None:
        self.has_begun = False  # whether SIGTERM was received

    def catch_sigterm(self) -> None:
        """Catch SIGTERM, report not ready, and pass it on to uvicorn after the delay.

        The lifespan calls this method after uvicorn has installed its own handler. A second SIGTERM
        is passed on at once.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # Signals reach the main thread only. Tests run the service in another.
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return

        async def stop_later(number: int, frame: FrameType | None) -> None:
            await asyncio.sleep(limits.SHUTDOWN_DELAY_SECONDS)
            for file in _listening_sockets(stop):
                connect_no_more(file)
            await asyncio.sleep(limits.ACCEPT_SECONDS)
            stop(number, frame)

        def begin(number: int, frame: FrameType | None) -> None:
            if self.has_begun:
                stop(number, frame)
            else:
                self.has_begun = True
                asyncio.run_coroutine_threadsafe(stop_later(number, frame), loop)

        signal.signal(signal.SIGTERM, begin)


def _listening_sockets(handler: Any) -> list[int]:
    """Return the sockets of the server whose method is uvicorn's handler of a signal."""
    server = getattr(handler, "__self__", None)
    if not isinstance(server, uvicorn.Server):
        return []
    return [sock.fileno() for listener in server.servers for sock in listener.sockets]
