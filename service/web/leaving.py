"""Leaving: the delay between SIGTERM and the graceful shutdown, in which the service still serves.

uvicorn closes its listening socket as soon as it gets the signal, and a proxy that still sends
requests then sees refused connections. During the delay the health check reports 503, so that the
proxy stops sending requests first.
"""

import asyncio
import signal
import threading
from types import FrameType

from service import limits


class Leaving:
    """Whether this process has received SIGTERM."""

    def __init__(self) -> None:
        self.has_begun = False

    def catch_sigterm(self) -> None:
        """Catch SIGTERM, report not ready, and pass it on to uvicorn after LEAVE_SECONDS.

        Called from the lifespan, when uvicorn has installed its own handler. A second SIGTERM is
        passed on at once.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # Signals reach the main thread only. Tests run the service in another.
        loop = asyncio.get_running_loop()
        uvicorn_handler = signal.getsignal(signal.SIGTERM)

        def begin(number: int, frame: FrameType | None) -> None:
            if not callable(uvicorn_handler):
                return
            if self.has_begun:
                uvicorn_handler(number, frame)
                return
            self.has_begun = True
            loop.call_soon_threadsafe(
                loop.call_later, limits.LEAVE_SECONDS, uvicorn_handler, number, frame
            )

        signal.signal(signal.SIGTERM, begin)
