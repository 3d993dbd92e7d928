"""A call: one request of a client, read as far as its route asks for, or refused.

The order of the refusals is the contract's: 401, then 413 and 415, then 400; what needs the
database comes after.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import limits
from service.refusals import (
    BAD_REQUEST,
    INTERNAL_SERVER_ERROR,
    PAYLOAD_TOO_LARGE,
    UNAUTHORIZED,
    UNSUPPORTED_MEDIA_TYPE,
    BadField,
    Refusal,
)
from service.rows import Uuid
from service.settings import Settings
from service.web.fields import (
    ANY_TEXT,
    FINGERPRINT,
    BadFields,
    Reader,
    parse_uuid,
    read_object,
    token,
)
from service.web.protocol import BODY
from service.web.state import Service


@dataclass(frozen=True, slots=True)
class Header:
    """A header that a route reads."""

    name: str
    reader: Reader
    required: bool = False
    is_list: bool = False
    """Whether it may be there several times, which is the same as once with commas."""


KEY = Header("Idempotency-Key", token(limits.MAX_KEY, "order-1"))
ASKER = Header("X-User-Fingerprint", FINGERPRINT)
OWNER = Header("X-User-Fingerprint", FINGERPRINT, required=True)
KNOWN_TAGS = Header("If-None-Match", ANY_TEXT, is_list=True)
KNOWN_VERSION = Header("Last-Event-ID", ANY_TEXT, is_list=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers that was not refused."""

    status: int
    type: Any = None
    """Of the body, as ``answers`` has it; None: there is none."""
    headers: Sequence[str] = ()
    media_type: str = "application/json"


@dataclass(slots=True)
class Call:
    """What a handler gets: read, checked, in the service's own types."""

    service: Service
    request: Request
    id: Uuid
    """The id in the path; '' where the path has none."""
    query: dict[str, Any]
    body: dict[str, Any]
    headers: dict[str, Any]
    """By name, those that the route reads; None for one that is not there."""


class BadHeader(Exception):
    """A header that cannot be used. The text is for the client."""


Handler = Callable[[Call], Awaitable[Response | Refusal]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler, and what is read and checked before it is called."""

    handler: Handler
    body: Mapping[str, Reader] | Callable[[Settings], Mapping[str, Reader]] | None = None
    """The fields of the body; None: there is none, and one that comes is ignored."""
    partial: bool = False
    """Whether fields of the body may be missing."""
    query: Mapping[str, Reader] = field(default_factory=dict)
    headers: Sequence[Header] = ()
    for_organizer: bool = False
    streams: bool = False
    """Whether the answer has no end; such a one has no HEAD."""
    answers: Sequence[Answer] = ()
    refusals: Iterable[Refusal] = ()
    """Those of its handler, besides what reading the request may refuse."""

    @property
    def is_private(self) -> bool:
        """Whether its answers are for the one who asks, and no cache may keep them."""
        return self.for_organizer or ASKER.name in [header.name for header in self.headers]

    def fields(self, settings: Settings) -> Mapping[str, Reader] | None:
        """Return the fields of the body; None where none is read."""
        return self.body(settings) if callable(self.body) else self.body

    def all_refusals(self, settings: Settings) -> list[Refusal]:
        """Return whatever it may refuse, with how."""
        return [
            *([UNAUTHORIZED] if self.for_organizer and settings.organizer_token else []),
            *([PAYLOAD_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE] if self.body is not None else []),
            BAD_REQUEST,
            *self.refusals,
            INTERNAL_SERVER_ERROR,
        ]

    async def call(self, service: Service, request: Request) -> Response | Refusal:
        """Read the request, call the handler, and return what it answers."""
        if self.for_organizer and not _is_organizer(service.settings.organizer_token, request):
            return UNAUTHORIZED
        body: dict[str, Any] = {}
        try:
            if (fields := self.fields(service.settings)) is not None:
                raw = await _read_body(request)
                if isinstance(raw, Refusal):
                    return raw
                body = read_object(raw, fields, self.partial)
            query = _read_query(request, self.query)
            path_id = request.path_params.get("id")
            try:
                id_ = parse_uuid(path_id) if path_id is not None else Uuid("")
            except ValueError:
                return BAD_REQUEST.because([BadField("id", "must be a UUID")])
            headers = {header.name: _read_header(request, header) for header in self.headers}
            return await self.handler(Call(service, request, id_, query, body, headers))
        except BadFields as bad:
            return BAD_REQUEST.because(bad.details)
        except BadHeader as bad:
            return Refusal(BAD_REQUEST.status, BAD_REQUEST.code, str(bad))


def _is_organizer(expected: str | None, request: Request) -> bool:
    if expected is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # In constant time: how long it takes must not tell how much of it was right.
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode("latin-1"), expected.encode()
    )


async def _read_body(request: Request) -> bytes | Refusal:
    """Read a body of JSON, bounded in size and in time."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > limits.MAX_BODY_BYTES:
        return PAYLOAD_TOO_LARGE
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body: bytes | None = request.scope.get(BODY)
    if body is None:
        try:
            async with asyncio.timeout(limits.BODY_SECONDS):
                body = await _receive(request)
        except (TimeoutError, ClientDisconnect):
            return Refusal(BAD_REQUEST.status, BAD_REQUEST.code, "The body did not arrive in time")
    if body is None or len(body) > limits.MAX_BODY_BYTES:
        return PAYLOAD_TOO_LARGE
    return body if media_type == "application/json" else UNSUPPORTED_MEDIA_TYPE


async def _receive(request: Request) -> bytes | None:
    """Return the whole body; None when it is larger than it may be."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.MAX_BODY_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _read_header(request: Request, header: Header) -> Any:
    """Return a header's value, None if it may be missing and is.

    Raises:
        BadHeader: when it cannot be used, or is there twice with different values.
    """
    values = set(request.headers.getlist(header.name))
    if header.is_list and values:
        values = {",".join(request.headers.getlist(header.name))}
    if len(values) > 1:
        raise BadHeader(f"The header {header.name} is given twice")
    if not values:
        if header.required:
            raise BadHeader(f"The header {header.name} is missing")
        return None
    try:
        # Blanks around a value are not of it (RFC 9110, section 5.5).
        return header.reader.read(values.pop().strip(" \t"))
    except ValueError as error:
        raise BadHeader(f"The header {header.name} {error}") from None


def _read_query(request: Request, readers: Mapping[str, Reader]) -> dict[str, Any]:
    defaults = {name: reader.default for name, reader in readers.items()}
    if not request.scope["query_string"]:
        return defaults
    bad: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in readers:
            bad[name[:64]] = "is not known"
        elif name in values:
            bad[name] = "is given twice"
        else:
            try:
                values[name] = readers[name].read(value)
            except ValueError as error:
                values[name] = None
                bad[name] = str(error)
    if bad:
        raise BadFields([BadField(name, why) for name, why in bad.items()])
    return defaults | values
