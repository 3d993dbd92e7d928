"""Reading of HTTP responses from a plain socket."""

import re
import socket


def read_all(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def statuses(responses: bytes) -> list[int]:
    """Return the status codes of the responses that one connection has received."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", responses)]
