"""Hosts: the names in the header Host that the service serves.

A page can let its own name resolve to the service's address (DNS rebinding). The browser then takes
the service for the page's own origin, and CORS protects nothing. But the header Host still has the
page's name, so a request is refused if the name in Host is not allowed.
"""

from collections.abc import Collection, Iterable

from service.refusals import BAD_REQUEST, MISDIRECTED_REQUEST, Refusal

_MISSING = Refusal(BAD_REQUEST.status, BAD_REQUEST.code, "The header Host is missing")
_REPEATED = Refusal(BAD_REQUEST.status, BAD_REQUEST.code, "The header Host is repeated")


class Hosts:
    """Checks the header Host of every request.

    Args:
        names: those allowed, in lower case and without a port; ``*`` for any.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._allows_any = "*" in names

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
        """Return the refusal of a request with these headers; None if it is allowed."""
        values = [value for name, value in headers if name == b"host"]
        if len(values) != 1:
            return _REPEATED if values else _MISSING
        if self._allows_any or _name(values[0]) in self._names:
            return None
        return MISDIRECTED_REQUEST


def _name(value: bytes) -> str:
    """Return the name in a Host header, in lower case, without the port and without a last dot."""
    text = value.decode("latin-1").strip().lower()
    name, colon, port = text.rpartition(":")
    if not colon or not (port.isdigit() or not port) or text.endswith("]"):
        name = text
    return name.removesuffix(".")
