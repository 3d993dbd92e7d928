"""Fields: readers that check and convert the values a client sends in JSON, queries and headers.

A refusal names all bad fields, not only the first. A reader's check and its JSON Schema are built
from the same limits.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from service import limits
from service.refusals import BadField
from service.rows import Uuid


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one kind of value."""

    # Takes a value from JSON, a query or a header and returns it converted. Raises ValueError
    # with a message for the client.
    read: Callable[[Any], Any]
    # The accepted values in JSON Schema, with an example.
    schema: Mapping[str, Any]
    # The value of a parameter that was not sent.
    default: Any = None
    # Whether a field of a body may be missing.
    is_optional: bool = False

    def with_description(self, text: str) -> "Reader":
        """Return the same reader with a description of its values."""
        return replace(self, schema={**self.schema, "description": text})


_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
# RFC 3339, section 5.6.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)


class BadFields(Exception):
    """A request has bad fields; ``details`` has one entry for each."""

    def __init__(self, details: list[BadField]) -> None:
        super().__init__(details)
        self.details = details


def read_object(body: bytes, fields: Mapping[str, Reader], partial: bool = False) -> dict[str, Any]:
    """Read a JSON object that has the given fields and no others.

    Args:
        body: JSON in UTF-8.
        fields: the reader of each field, by its name in JSON.
        partial: whether fields may be missing, as long as at least one is present.

    Returns:
        The values, by the names in JSON.

    Raises:
        BadFields: if the body is anything else. An error of the whole body has field ''.
    """
    try:
        sent_fields = _DECODER.decode(body.decode())
    except RecursionError:
        raise _bad_field("", "is nested too deeply") from None
    except ValueError:
        raise _bad_field("", "is not JSON") from None
    if not isinstance(sent_fields, dict):
        raise _bad_field("", "is not an object")
    errors: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in sent_fields.items():
        try:
            values[name] = fields[name].read(value)
        except KeyError:
            errors[_printable(name)] = "is unknown"
        except ValueError as error:
            errors[name] = str(error)
    if not partial:
        errors |= {
            name: "is missing"
            for name, reader in fields.items()
            if name not in sent_fields and not reader.is_optional
        }
    elif not sent_fields:
        errors[""] = f"must have at least one of {', '.join(fields)}"
    if errors:
        raise BadFields([BadField(name, message) for name, message in errors.items()])
    return values


def integer(minimum: int, maximum: int, example: int) -> Reader:
    """Return a reader of whole numbers in JSON; ``1.0`` counts as whole, as in JSON Schema."""
    message = f"must be a whole number from {minimum} to {maximum}"

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not minimum <= value <= maximum:
            raise ValueError(message)
        return value

    return Reader(read, _integer_schema(minimum, maximum, example))


def optional(reader: Reader) -> Reader:
    """Return the same reader, for a field of a body that may be missing."""
    return replace(reader, is_optional=True)


def term(reader: Reader) -> Reader:
    """Return a reader of a term of sale: it may be missing, and null clears it."""

    def read(value: Any) -> Any:
        return None if value is None else reader.read(value)

    if "anyOf" in reader.schema:
        alternatives = {"anyOf": [*reader.schema["anyOf"], {"type": "null"}]}
    else:
        alternatives = {"type": [reader.schema["type"], "null"]}
    return Reader(read, {**reader.schema, **alternatives}, is_optional=True)


def query_integer(minimum: int, maximum: int, default: int | None = None) -> Reader:
    """Return a reader of whole numbers in a query, written in digits."""
    message = f"must be a whole number from {minimum} to {maximum}"

    def read(text: str) -> int:
        # 19 digits are enough for every maximum; int() of a very long text would be slow.
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise ValueError(message)
        if not minimum <= int(text) <= maximum:
            raise ValueError(message)
        return int(text)

    example = minimum if default is None else default
    return Reader(read, _integer_schema(minimum, maximum, example), default)


def _integer_schema(minimum: int, maximum: int, example: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": minimum, "maximum": maximum, "examples": [example]}


def visible_ascii(max_length: int, example: str) -> Reader:
    """Return a reader of text that a header can carry unchanged: visible ASCII, no spaces."""
    message = f"must be 1 to {max_length} visible ASCII characters"

    def read(value: Any) -> str:
        if not (isinstance(value, str) and len(value) <= max_length and _VISIBLE.fullmatch(value)):
            raise ValueError(message)
        return value

    schema = {"type": "string", "minLength": 1, "maxLength": max_length, "pattern": "^[!-~]+$"}
    return Reader(read, {**schema, "examples": [example]})


def idempotency_key() -> Reader:
    """Return a reader of an idempotency key: visible ASCII, with or without quotes around it.

    The quoted form is that of the IETF draft (draft-ietf-httpapi-idempotency-key-header), a string
    of RFC 9651, section 3.3.3; both forms are the same key.
    """
    bare = visible_ascii(limits.MAX_KEY, "order-1")

    def read(value: Any) -> str:
        key: str = bare.read(value)
        if key.startswith('"') and key.endswith('"') and len(key) > 2:
            key = re.sub(r'\\(["\\])', r"\1", key[1:-1])
        return key

    return Reader(read, bare.schema)


def choice(*words: str) -> Reader:
    """Return a reader of one of the given words."""
    message = f"must be one of {', '.join(words)}"

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(message)
        return str(value)

    return Reader(read, {"type": "string", "enum": list(words), "examples": [words[0]]})


def _read_event_name(value: Any) -> str:
    """Return an event's name in NFC."""
    is_normalizable = isinstance(value, str) and len(value) <= limits.MAX_NAME_SPELLING
    name = unicodedata.normalize("NFC", value) if is_normalizable else ""
    if not 1 <= len(name) <= limits.MAX_EVENT_NAME:
        raise ValueError(f"must be 1 to {limits.MAX_EVENT_NAME} characters")
    if not name.strip():
        raise ValueError("must not be blank")
    return _check_storable(name)


def _read_name_part(text: str) -> str:
    """Return a part of an event's name in NFC."""
    if len(text) > limits.MAX_NAME_SPELLING:
        raise ValueError(f"must be at most {limits.MAX_NAME_SPELLING} characters")
    return _check_storable(unicodedata.normalize("NFC", text))


def _check_storable(text: str) -> str:
    """Return a text if PostgreSQL can store it: no NUL, no lone surrogate."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain NUL or lone surrogates")
    return text


def _read_timestamp(value: Any) -> datetime:
    """Return a time in UTC, truncated to microseconds."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a time with an offset, such as 2030-01-01T20:00:00Z")
    day, time, fraction, offset = match.groups()
    text = f"{day}T{time}.{(fraction or '')[:6]:0<6}{offset.upper()}"
    try:
        # Refuses second 60 too. PostgreSQL would turn it into the next minute.
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time from year 1 to 9999") from None


def _read_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _read_query_boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def parse_uuid(text: str) -> Uuid:
    """Return a UUID (RFC 9562, section 4) in lower case."""
    if not _UUID.fullmatch(text):
        raise ValueError("must be a UUID")
    return Uuid(text.lower())


# Any value of a header.
ANY_TEXT = Reader(str, {"type": "string"})
# The fingerprint that proves who owns a ticket.
FINGERPRINT = visible_ascii(limits.MAX_FINGERPRINT, "alice")
EVENT_NAME = Reader(
    _read_event_name,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.MAX_EVENT_NAME,
        "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$",
        "description": "Stored in Unicode Normalization Form C, in which its length is counted.",
        "examples": ["Opening night"],
    },
)
# A part of an event's name, to search for.
NAME_PART = Reader(
    _read_name_part,
    {
        "type": "string",
        "maxLength": limits.MAX_NAME_SPELLING,
        "pattern": r"^[^\u0000]*$",
        "examples": ["night"],
    },
    default="",
)
# A time with its offset (RFC 3339).
TIMESTAMP = Reader(
    _read_timestamp,
    {
        "type": "string",
        "format": "date-time",
        "description": "A time with its offset, years 1 to 9999.",
        "examples": ["2030-01-01T20:00:00Z"],
    },
)
# A time, or "now" for the database's clock when the change is made.
MOMENT = Reader(
    lambda value: value if value == "now" else _read_timestamp(value),
    {
        "anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "const": "now"}],
        "description": 'A time with its offset, years 1 to 9999, or "now".',
        "examples": ["2029-12-01T10:00:00Z"],
    },
)
# ``true`` or ``false`` in a body; may be missing.
OPTIONAL_BOOLEAN = Reader(_read_boolean, {"type": "boolean", "examples": [False]}, is_optional=True)
# ``true`` or ``false`` in a query.
QUERY_BOOLEAN = Reader(_read_query_boolean, {"type": "boolean", "examples": [True]}, default=False)
UUID = Reader(
    parse_uuid,
    {
        "type": "string",
        "format": "uuid",
        "examples": ["01a20215-b4e0-7fbd-9e48-55cf6e62953a"],
    },
)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _bad_field(_printable(name), "is repeated")
            seen.add(name)
    return fields


def _reject_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _printable(name: str) -> str:
    """Return a field's name from a client, shortened and without lone surrogates, to send back."""
    return name[:64].encode("utf-8", "replace").decode()


def _bad_field(field: str, message: str) -> BadFields:
    return BadFields([BadField(field, message)])


_DECODER = json.JSONDecoder(object_pairs_hook=_reject_duplicates, parse_constant=_reject_constant)
