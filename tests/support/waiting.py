"""Waiting for a condition, and calls made at the same time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# How long a test waits for something that must happen. It is a bound, not a measure.
WAIT_SECONDS = 20.0


def wait_until(
    condition: Callable[[], bool], message: str = "the condition did not become true in time"
) -> None:
    """Check a condition every 10 ms until it is true; fail after WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make calls at the same time, each in a thread; return their results in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
