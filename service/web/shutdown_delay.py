"""Shutdown delay: the time between SIGTERM and the graceful shutdown, with the service running.

uvicorn closes its listening socket as soon as it gets the signal. A proxy that still sends requests
would get refused connections. During the delay the health check returns 503, so that the proxy
stops sending requests first.
"""

import asyncio
import signal
import threading
from types import FrameType

from service import limits


class ShutdownDelay:
    """The delay between SIGTERM and the graceful shutdown of this process."""

    def __init__(self) -> None:
        self.has_begun = False  # whether SIGTERM was received

    def catch_sigterm(self) -> None:
        """Catch SIGTERM, report not ready, and pass it on after SHUTDOWN_DELAY_SECONDS.

        It is passed on to uvicorn's handler. Therefore the lifespan calls this method after uvicorn
        has installed that handler. A second SIGTERM is passed on at once.
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
                loop.call_later, limits.SHUTDOWN_DELAY_SECONDS, uvicorn_handler, number, frame
            )

        signal.signal(signal.SIGTERM, begin)
