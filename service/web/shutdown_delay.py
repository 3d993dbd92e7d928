"""Shutdown delay: the time between SIGTERM and the graceful shutdown, with the service running.

uvicorn closes its listening socket as soon as it gets the signal. A proxy that still sends requests
would get refused connections. During the delay the health check returns 503, so that the proxy
stops sending requests first. At its end no further clients are connected, and those that the kernel
has connected already are accepted.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

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

        def call_later(seconds: float, function: Callable[..., object], *arguments: object) -> None:
            loop.call_soon_threadsafe(loop.call_later, seconds, function, *arguments)

        def begin(number: int, frame: FrameType | None) -> None:
            if self.has_begun:
                stop(number, frame)
                return
            self.has_begun = True
            # Two timers: the second one must fire even if the first one fails.
            call_later(limits.SHUTDOWN_DELAY_SECONDS, _connect_no_more, stop)
            stop_seconds = limits.SHUTDOWN_DELAY_SECONDS + limits.ACCEPT_SECONDS
            call_later(stop_seconds, stop, number, frame)

        signal.signal(signal.SIGTERM, begin)


def _connect_no_more(uvicorn_handler: object) -> None:
    """Let the kernel connect no further clients to the server that has this handler of signals."""
    server = getattr(uvicorn_handler, "__self__", None)
    if isinstance(server, uvicorn.Server):
        for listener in server.servers:
            for listening in listener.sockets:
                connect_no_more(listening.fileno())
