"""A TCP proxy that can lose what passes through it."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from psycopg.conninfo import conninfo_to_dict

from tests.support.database import Database
from tests.support.waiting import wait_until

# The path of a Unix socket, or a host and a port.
Address = str | tuple[str, int]


class LossyProxy:
    """Forwards connections from a port of the loopback interface to a server.

    Attributes:
        port: where it listens.
        loses_responses: whether the next data from the server is dropped and its connection
            reset. The server has then done what the client asked for, and the client cannot know.
        lost: how many responses were dropped.
        forwarding: if cleared, nothing passes in either direction and no connection ends, as in
            a network outage.
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended = False
        self.loses_responses = False
        self.lost = 0
        # The server's ends of the connections that are silent.
        self._silent: set[socket.socket] = set()
        self.forwarding = threading.Event()
        self.forwarding.set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.forwarding.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else accept would take one more connection
        self._listener.close()
        self.reset_all()

    def reset_all(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for connection in pair:
                _reset(connection)
        self._pairs.clear()

    def silence(self) -> None:
        """Drop from now on what comes over the connections that exist, and acknowledge it.

        New connections work.
        """
        self._silent.update(server for _, server in self._pairs)

    def wait_until_lost(self, count: int = 1) -> None:
        """Wait until at least ``count`` responses were lost."""
        wait_until(lambda: self.lost >= count)

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.forwarding.wait()
            if self._ended:
                client.close()
                return
            family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
            server = socket.socket(family)
            self._pairs.append((client, server))
            with suppress(OSError):
                server.connect(self._target)
                for forward in (self._forward_requests, self._forward_responses):
                    threading.Thread(target=forward, args=(client, server), daemon=True).start()

    def _forward_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self.forwarding.wait()
                if server not in self._silent:
                    server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _forward_responses(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self.forwarding.wait()
                if server in self._silent:
                    continue
                if self.loses_responses:
                    self.lost += 1
                    _reset(client)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_database(database: Database) -> Iterator[tuple[Database, LossyProxy]]:
    """Yield the same database through a proxy, and the proxy."""
    parts = conninfo_to_dict(database.dsn)
    with LossyProxy(str(Path(str(parts["host"])) / ".s.PGSQL.5432")) as proxy:
        address = f"127.0.0.1:{proxy.port}/{parts['dbname']}"
        dsn = f"postgresql://holdfast@{address}?sslmode=disable&gssencmode=disable"
        yield Database(dsn), proxy


def _reset(connection: socket.socket) -> None:
    """Reset a connection; a thread that reads from it wakes up."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    connection.close()
