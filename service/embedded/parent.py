"""Child processes that stop with their parent, also when the parent is killed."""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def stop_with_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    """Return a function that a child calls first, to get a signal when its parent dies.

    The signal comes from the kernel. On systems other than Linux the function does nothing: there
    a child stops only when its parent stops it.

    Args:
        parent: the pid of the parent. If it has already died, the child exits with code 1.
        death_signal: the signal that the child gets.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except AttributeError:  # not Linux
        return lambda: None

    def request_signal() -> None:
        # A shell lets a process in the background ignore SIGINT, and its children inherit that.
        if signal.getsignal(death_signal) is signal.SIG_IGN:
            signal.signal(death_signal, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(1)

    return request_signal
