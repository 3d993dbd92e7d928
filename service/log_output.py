"""The output of the log: writes to stderr without ever waiting for its reader.

A pipe or a socket whose reader has stopped is full after some hundreds of lines. A write would then
stop the whole process. Lines that cannot be written at once are dropped and counted instead.
"""

import functools
import logging
import os
import select
import socket
import stat
import sys
from collections.abc import Callable

from service import metrics


class LogOutput:
    """Writes lines to a file descriptor, or drops them.

    Args:
        descriptor: usually that of stderr. It may be shared with other processes, so it is never
            made non-blocking itself.
    """

    def __init__(self, descriptor: int) -> None:
        self._write = _writer(descriptor)

    def write(self, lines: bytes) -> None:
        """Write complete lines.

        If all of them together have at most PIPE_BUF bytes, all are written or none.
        """
        written = 0
        try:
            while written < len(lines):
                written += self._write(lines[written:])
        except OSError:  # it would have to wait (BlockingIOError), or the reader is gone
            metrics.LOG_LINES_DROPPED.inc(lines[written:].count(b"\n"))


def stderr_output() -> LogOutput:
    """Return the output that writes to stderr."""
    descriptor = sys.stderr.fileno()
    status = os.fstat(descriptor)
    return _output(descriptor, status.st_dev, status.st_ino)


@functools.cache
def _output(descriptor: int, *_: int) -> LogOutput:
    """Return the output of a descriptor, the same for each call.

    The further arguments are the device and the inode of its file. They are only part of the
    cache's key: after the descriptor is redirected to another file, it gets a new output.
    """
    return LogOutput(descriptor)


class LogHandler(logging.Handler):
    """Passes messages on to the output of the log."""

    def __init__(self, output: LogOutput) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a message."""
        self._output.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))


def _writer(descriptor: int) -> Callable[[bytes], int]:
    """Return a function like ``os.write`` that raises BlockingIOError instead of waiting."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return lambda data: os.write(descriptor, data)
    if stat.S_ISSOCK(mode):  # such as that of systemd's journal
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    try:
        # A second, non-blocking opening of the same pipe or terminal.
        path = f"/proc/self/fd/{descriptor}"
        opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # the file belongs to another account, or there is no /proc
        return lambda data: _write_if_ready(descriptor, data)
    return lambda data: os.write(opened, data)


def _write_if_ready(descriptor: int, data: bytes) -> int:
    """Write as much as a pipe that is ready takes at once."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(descriptor, data[: select.PIPE_BUF])
