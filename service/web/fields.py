"""The fields: what a client may send, one kind of value each, and reading whole bodies of them.

Every bad field of a body is named at once. What a reader takes and what it says that it takes
are made of the same bounds, here, so that the two cannot part.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service import limits
from service.refusals import BadField
from service.rows import Uuid


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one kind of value."""

    read: Callable[[Any], Any]
    """Takes what JSON, a query or a header gave, and returns the value; raises ValueError with
    what a person should know."""
    schema: Mapping[str, Any]
    """The same in JSON Schema, with an example."""
    default: Any = None
    """The value of a parameter that was not sent."""


_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
# RFC 3339, section 5.6; its second 60 is refused, since PostgreSQL would make it the next minute.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)


class BadFields(Exception):
    """A body that cannot be used; ``details`` names every bad field, once."""

    def __init__(self, details: list[BadField]) -> None:
        super().__init__(details)
        self.details = details


def read_object(
    body: bytes, fields: Mapping[str, Reader], optional: bool = False
) -> dict[str, Any]:
    """Read a JSON object that has these fields and no other.

    Args:
        body: JSON in UTF-8.
        fields: the reader of each field, by its name on the wire.
        optional: whether fields may be missing, as long as there is one.

    Returns:
        The values, by the names on the wire.

    Raises:
        BadFields: for anything else.
    """
    try:
        given = _DECODER.decode(body.decode())
    except RecursionError:
        raise _bad("", "is nested too deeply") from None
    except ValueError:
        raise _bad("", "is not JSON") from None
    if not isinstance(given, dict):
        raise _bad("", "is not an object")
    bad: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in given.items():
        try:
            values[name] = fields[name].read(value)
        except KeyError:
            bad[_printable(name)] = "is not known"
        except ValueError as error:
            bad[name] = str(error)
    if not optional:
        bad |= {name: "is missing" for name in fields if name not in given}
    elif not given:
        bad[""] = f"has none of {', '.join(fields)}"
    if bad:
        raise BadFields([BadField(name, why) for name, why in bad.items()])
    return values


def integer(lowest: int, highest: int, example: int) -> Reader:
    """Return a reader of whole numbers; ``1.0`` is one, as JSON Schema has it."""
    message = f"must be a whole number from {lowest} to {highest}"

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(message)
        return value

    return Reader(read, _whole_number(lowest, highest, example))


def number_in_query(lowest: int, highest: int, default: int) -> Reader:
    """Return a reader of whole numbers that are written in digits, as in a query."""
    message = f"must be a whole number from {lowest} to {highest}"

    def read(text: str) -> int:
        # Nineteen digits hold all that may be asked for; int() of very many would be slow.
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise ValueError(message)
        if not lowest <= int(text) <= highest:
            raise ValueError(message)
        return int(text)

    return Reader(read, _whole_number(lowest, highest, default), default)


def _whole_number(lowest: int, highest: int, example: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": lowest, "maximum": highest, "examples": [example]}


def token(longest: int, example: str) -> Reader:
    """Return a reader of what a client makes up itself: visible ASCII that a header can carry."""
    message = f"must be 1 to {longest} visible ASCII characters"

    def read(value: Any) -> str:
        if not (isinstance(value, str) and len(value) <= longest and _VISIBLE.fullmatch(value)):
            raise ValueError(message)
        return value

    schema = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": "^[!-~]+$"}
    return Reader(read, {**schema, "examples": [example]})


FINGERPRINT = token(limits.MAX_FINGERPRINT, "alice")
"""Reads what proves whose a ticket is."""


def _event_name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= limits.MAX_EVENT_NAME:
        raise ValueError(f"must be 1 to {limits.MAX_EVENT_NAME} characters")
    if not value.strip():
        raise ValueError("must not be blank")
    return _storable(value)


def _storable(value: str) -> str:
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not hold NUL or lone surrogates")
    return value


EVENT_NAME = Reader(
    _event_name,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.MAX_EVENT_NAME,
        "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$",
        "examples": ["Opening night"],
    },
)
PART_OF_NAME = Reader(
    _storable, {"type": "string", "pattern": r"^[^\u0000]*$", "examples": ["night"]}, default=""
)
"""Reads a text that PostgreSQL can store: no NUL, no half of a surrogate pair."""


def _moment(value: Any) -> datetime:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a time with an offset, such as 2030-01-01T20:00:00Z")
    day, time, fraction, offset = found.groups()
    text = f"{day}T{time}.{(fraction or '')[:6]:0<6}{offset.upper()}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time from year 1 to 9999") from None


MOMENT = Reader(
    _moment,
    {
        "type": "string",
        "format": "date-time",
        "description": "A time with its offset, years 1 to 9999.",
        "examples": ["2030-01-01T20:00:00Z"],
    },
)
"""Reads a time with its offset (RFC 3339) and returns it in UTC, cut to microseconds."""


def one_of(*words: str) -> Reader:
    """Return a reader of one of a few words."""
    message = f"must be one of {', '.join(words)}"

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(message)
        return str(value)

    return Reader(read, {"type": "string", "enum": list(words), "examples": [words[0]]})


def _yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


YES_OR_NO = Reader(_yes_or_no, {"type": "boolean", "examples": [True]}, default=False)
"""Reads ``true`` or ``false`` as a query has it."""
ANY_TEXT = Reader(str, {"type": "string"})
"""Reads whatever stands in a header."""


def parse_uuid(text: str) -> Uuid:
    """Read a UUID (RFC 9562, section 4), and return it in lower case."""
    if not _UUID.fullmatch(text):
        raise ValueError("must be a UUID")
    return Uuid(text.lower())


IDENTIFIER = Reader(
    parse_uuid,
    {
        "type": "string",
        "format": "uuid",
        "examples": ["01a20215-b4e0-7fbd-9e48-55cf6e62953a"],
    },
)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _bad(_printable(name), "is given twice")
            seen.add(name)
    return found


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _printable(name: str) -> str:
    """Return a client's own word so that it can be sent back: whole, short, encodable."""
    return name[:64].encode("utf-8", "replace").decode()


def _bad(field: str, message: str) -> BadFields:
    return BadFields([BadField(field, message)])


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
