"""Ending with one's parent: whatever we start ends when we do, also when we are killed."""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def ending_with(parent: int, how: signal.Signals) -> Callable[[], None]:
    """Return what a child calls first, so that the kernel sends it a signal at its parent's end.

    Args:
        parent: the pid of the parent: it may have ended before the child gets to ask.
        how: the signal.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except AttributeError:  # not Linux: only an orderly end of the parent ends the child
        return lambda: None

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:
            os._exit(1)

    return ask
