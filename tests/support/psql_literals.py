"""Values written as arguments of psql's -v."""

from typing import Any


def literal(value: Any) -> str:
    """Return a value as a user would type it for psql's -v."""
    if isinstance(value, list):
        return "{" + ",".join(map(_element, value)) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _element(value: Any) -> str:
    if value is None:
        return "null"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
