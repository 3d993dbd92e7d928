"""LossyProxy: a TCP proxy of a test's own, which can lose what goes through it."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

from tests.support.waiting import wait_until

Address = str | tuple[str, int]
"""A path of a Unix socket, or a host and a port."""


class LossyProxy:
    """Stands between two who talk, on a port of the loopback.

    ``loses_responses``: the next thing that comes back is lost and its connection cut, so that
    whoever asked knows nothing while the other has done it. ``silent``: nothing passes either
    way, and no connection ends, as when a network is gone.
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended = False
        self.loses_responses = False
        self.lost = 0
        """How many answers were lost."""
        self.forwarding = threading.Event()
        """Cleared: silent."""
        self.forwarding.set()

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.forwarding.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # else accept would let in one more
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for one in pair:
                _reset(one)
        self._pairs.clear()

    def wait_until_lost(self, how_many: int = 1) -> None:
        """Wait until so many answers were lost."""
        wait_until(lambda: self.lost >= how_many)

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self.forwarding.wait()
            far = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
            self._pairs.append((near, far))
            with suppress(OSError):
                far.connect(self._target)
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(near, far), daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                self.forwarding.wait()
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _answer(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                self.forwarding.wait()
                if self.loses_responses:
                    self.lost += 1
                    _reset(near)
                    return
                near.sendall(data)
            near.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    """End a connection as a broken one ends; a thread that reads from it wakes up."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    connection.close()
