"""Waiting: for what must come within a bound, and for calls made at once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


WAIT_SECONDS = 20.0
"""How long a test waits for what must come. It is a bound, not a measure."""


def wait_until(holds: Callable[[], bool], why: str = "it did not come true in time") -> None:
    """Look again and again until something holds; it must, within WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make calls at once, each in a thread, and return what they returned, in their order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
