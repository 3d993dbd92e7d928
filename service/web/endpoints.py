"""Endpoints: handlers, and the checks that a request must pass before its handler is called.

The order of the checks is part of the contract: first for 401, then for 413 and 415, then for 400,
and last those that need the database.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import limits
from service.refusals import (
    BAD_REQUEST,
    INTERNAL_SERVER_ERROR,
    MISDIRECTED_REQUEST,
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
    idempotency_key,
    parse_uuid,
    read_object,
)
from service.web.protocol import BODY
from service.web.state import Service


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that a route reads."""

    name: str
    reader: Reader
    required: bool = False
    # Whether the header is a list: if it is repeated, its values are joined with commas. Any other
    # header may be repeated only with the same value.
    is_list: bool = False


IDEMPOTENCY_KEY = Header("Idempotency-Key", idempotency_key())
# The same header, required by some routes and optional in others. Both have the name OWNER.name.
OWNER = Header("X-User-Fingerprint", FINGERPRINT, required=True)
OPTIONAL_OWNER = Header("X-User-Fingerprint", FINGERPRINT)
IF_MATCH = Header("If-Match", ANY_TEXT, is_list=True)
IF_NONE_MATCH = Header("If-None-Match", ANY_TEXT, is_list=True)
# An invalid ID is ignored, not refused; a repeated one is joined with commas, so it is invalid.
LAST_EVENT_ID = Header("Last-Event-ID", ANY_TEXT, is_list=True)


@dataclass(frozen=True, slots=True)
class Success:
    """A response that a route documents and that is not a refusal."""

    status: int
    type: Any = None  # of the body: a type of ``responses``, str or dict; None without a body
    headers: Sequence[str] = ()
    media_type: str = "application/json"


@dataclass(slots=True)
class Call:
    """A request as handlers get it: read, checked, and converted to the service's types."""

    service: Service
    request: Request
    id: Uuid  # from the path; '' if the path has none
    query: dict[str, Any]
    body: dict[str, Any]
    headers: dict[str, Any]  # those that the route reads, by name; None if not sent


class BadHeader(Exception):
    """A request header is invalid. The message is sent to the client."""


Handler = Callable[[Call], Awaitable[Response | Refusal]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler, and what is read and checked before it is called."""

    handler: Handler
    # What a cache may do with a success. "no-cache": store it, but ask the service before each use.
    # "no-store": nothing, because it is for one client alone or changes all the time.
    cache_control: Literal["no-cache", "no-store"]
    # The fields of the body; None if the route takes no body and ignores one that is sent.
    body: Mapping[str, Reader] | Callable[[Settings], Mapping[str, Reader]] | None = None
    # Whether fields of the body may be missing.
    partial: bool = False
    # Whether the body may be missing; then its fields have to be optional, too.
    body_is_optional: bool = False
    query: Mapping[str, Reader] = field(default_factory=dict)
    headers: Sequence[Header] = ()
    for_organizer: bool = False
    # Whether the response never ends. Such a route does not support HEAD.
    streams: bool = False
    successes: Sequence[Success] = ()
    # The refusals that the handler returns; ``all_refusals`` adds those of reading the request.
    refusals: Iterable[Refusal] = ()

    @property
    def caching_headers(self) -> dict[str, str]:
        """The headers of a success that are for caches."""
        headers: dict[str, str] = {"Cache-Control": self.cache_control}
        depends_on_owner = OWNER.name in [header.name for header in self.headers]
        if depends_on_owner and self.cache_control != "no-store":
            headers["Vary"] = OWNER.name
        return headers

    def fields(self, settings: Settings) -> Mapping[str, Reader] | None:
        """Return the fields of the body; None if the route takes no body."""
        return self.body(settings) if callable(self.body) else self.body

    def all_refusals(self, settings: Settings) -> list[Refusal]:
        """Return all refusals, including those of reading the request."""
        return [
            *([UNAUTHORIZED] if self.for_organizer and settings.organizer_token else []),
            *([PAYLOAD_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE] if self.body is not None else []),
            MISDIRECTED_REQUEST,
            BAD_REQUEST,
            *self.refusals,
            INTERNAL_SERVER_ERROR,
        ]

    async def call(self, service: Service, request: Request) -> Response | Refusal:
        """Read and check a request, then return the handler's response."""
        if self.for_organizer and not _is_organizer(service.settings.organizer_token, request):
            return UNAUTHORIZED
        body: dict[str, Any] = {}
        try:
            if (fields := self.fields(service.settings)) is not None:
                raw_body = await _read_body(request, self.body_is_optional)
                if isinstance(raw_body, Refusal):
                    return raw_body
                if not raw_body and self.body_is_optional:
                    raw_body = b"{}"
                body = read_object(raw_body, fields, self.partial)
            query = _read_query(request, self.query)
            id_ = _read_path_id(request)
            headers = {header.name: _read_header(request, header) for header in self.headers}
            return await self.handler(Call(service, request, id_, query, body, headers))
        except BadFields as bad:
            return BAD_REQUEST.with_details(bad.details)
        except BadHeader as bad:
            return Refusal(BAD_REQUEST.status, BAD_REQUEST.code, str(bad))


def _is_organizer(expected_token: str | None, request: Request) -> bool:
    if expected_token is None:
        return True
    scheme, _, sent_token = request.headers.get("authorization", "").partition(" ")
    # Compare in constant time: the duration must not reveal how much of a token is right.
    return scheme.lower() == "bearer" and hmac.compare_digest(
        sent_token.strip().encode("latin-1"), expected_token.encode()
    )


async def _read_body(request: Request, is_optional: bool) -> bytes | Refusal:
    """Return the bytes of a JSON body, limited in size and time.

    An optional body may be empty; its media type is then not checked.
    """
    length = request.headers.get("content-length", "0")
    # 20 digits are enough to exceed the limit; int() of a very long text would be slow.
    if length.isdigit() and int(length[:20]) > limits.MAX_BODY_BYTES:
        return PAYLOAD_TOO_LARGE
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body: bytes | None = request.scope.get(BODY)
    if body is None:
        try:
            async with asyncio.timeout(limits.BODY_SECONDS):
                body = await _receive_body(request)
        except (TimeoutError, ClientDisconnect):
            message = f"The body did not arrive within {limits.BODY_SECONDS:g} seconds"
            return Refusal(BAD_REQUEST.status, BAD_REQUEST.code, message)
    if body is None or len(body) > limits.MAX_BODY_BYTES:
        return PAYLOAD_TOO_LARGE
    if media_type == "application/json" or (is_optional and not body):
        return body
    return UNSUPPORTED_MEDIA_TYPE


async def _receive_body(request: Request) -> bytes | None:
    """Return the whole body; None if it is too large."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.MAX_BODY_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _read_path_id(request: Request) -> Uuid:
    """Return the ID in the path; '' if the path has none."""
    for name, text in request.path_params.items():  # one at most
        try:
            return parse_uuid(text)
        except ValueError as error:
            raise BadFields([BadField(name, str(error))]) from None
    return Uuid("")


def _read_header(request: Request, header: Header) -> Any:
    """Return a header's value; None if an optional header was not sent.

    Raises:
        BadHeader: if it is required and missing, invalid, or repeated with different values.
    """
    values = set(request.headers.getlist(header.name))
    if header.is_list and values:
        values = {",".join(request.headers.getlist(header.name))}
    if len(values) > 1:
        raise BadHeader(f"The header {header.name} is repeated with different values")
    if not values:
        if header.required:
            raise BadHeader(f"The header {header.name} is missing")
        return None
    try:
        # Whitespace around a value is not part of it (RFC 9110, section 5.5).
        return header.reader.read(values.pop().strip(" \t"))
    except ValueError as error:
        raise BadHeader(f"The header {header.name} {error}") from None


def _read_query(request: Request, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Return all query parameters, by name, with defaults for those that were not sent."""
    defaults = {name: reader.default for name, reader in readers.items()}
    if not request.scope["query_string"]:
        return defaults
    errors: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in readers:
            errors[name[:64]] = "is unknown"
        elif name in values:
            errors[name] = "is repeated"
        else:
            try:
                values[name] = readers[name].read(value)
            except ValueError as error:
                values[name] = None
                errors[name] = str(error)
    if errors:
        raise BadFields([BadField(name, message) for name, message in errors.items()])
    return defaults | values
