"""Literals, as one types them for psql."""

from typing import Any


def literal(value: Any) -> str:
    """Write a value as one types it for psql's -v."""
    if isinstance(value, list):
        quoted = [str(one).replace("\\", "\\\\").replace('"', '\\"') for one in value]
        return "{" + ",".join(f'"{one}"' for one in quoted) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
