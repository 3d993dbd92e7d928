"""Leaving: between the signal to end and the end, the service is not ready and yet serves.

uvicorn closes its socket at the signal. A proxy learns of it by requests that are refused; told a
moment earlier by its health check, it sends none. Then what was accepted is answered.
"""

import asyncio
import signal
import threading
from types import FrameType

from service import limits


class Leaving:
    """Whether this process was told to end."""

    def __init__(self) -> None:
        self.has_begun = False

    def catch_sigterm(self) -> None:
        """Have a SIGTERM told here first, and uvicorn a moment later; from its lifespan."""
        if threading.current_thread() is not threading.main_thread():
            return  # as when a test runs the service in a thread: no signal comes here
        loop = asyncio.get_running_loop()
        then = signal.getsignal(signal.SIGTERM)

        def begin(number: int, frame: FrameType | None) -> None:
            if not callable(then):
                return
            if self.has_begun:
                then(number, frame)  # twice: at once
                return
            self.has_begun = True
            loop.call_soon_threadsafe(loop.call_later, limits.LEAVE_SECONDS, then, number, frame)

        signal.signal(signal.SIGTERM, begin)
