"""The OpenAPI 3.1 description, generated from the code that serves the requests.

It describes the routes of the route table, the readers of their fields, the structs of their
responses, and their refusals. ``tests/http/test_openapi.py`` compares it with real responses.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec

from service import limits
from service.refusals import BAD_REQUEST, BadField, Details, Refusal
from service.settings import Settings
from service.web.endpoints import OWNER, Endpoint, Success
from service.web.examples import EXAMPLES
from service.web.fields import ANY_TEXT, UUID, Reader
from service.web.responses import (
    EntryResponse,
    EventResponse,
    ReservationResponse,
    TicketResponse,
    refuse,
)
from service.web.watching import EventStream

Routes = Mapping[str, Mapping[str, Endpoint]]
Json = dict[str, Any]

TITLE = "Holdfast"
DESCRIPTION = f"""\
Hands out a limited number of tickets to a crowd: never one too many, never one lost.

Every refusal is `{{"error": text for people, "code": CONSTANT}}`, some with `details`. A 4xx means
that nothing was changed. An unknown path is 404 `NOT_FOUND`. A method that a path does not support
is 405 `METHOD_NOT_ALLOWED`, and `Allow` lists the supported ones. HEAD is supported wherever GET
is, except for the stream. A body is `application/json` of at most {limits.MAX_BODY_BYTES} bytes.
Unknown fields and parameters are refused."""

# In the order of a sale.
TAGS = [
    "events",
    "tickets",
    "reservations",
    "waiting",
    "ledger",
    "fingerprints",
    "health",
    "docs",
]

# Descriptions of the response headers.
HEADERS = {
    "X-Request-Id": "The ID of the request in the service's log: the client's own, if it sent one.",
    "Cache-Control": "`no-cache`: ask the service before each use. `no-store`: store nothing.",
    "Vary": "The request header that the response depends on.",
    "ETag": "Changes whenever the response does.",
    "Location": "The path of the new event, reservation or waiting entry.",
    "Idempotency-Replayed": "`true` if an earlier request with this key made the reservation.",
    "Content-Security-Policy": "What the page may load and run.",
    "Retry-After": "Seconds to wait before a retry.",
    "WWW-Authenticate": "The authentication scheme of the organizer's token.",
}

# The IDs in each type of response: for each ID, the prefix of the paths that take it, and the JSON
# pointer to it in the response.
_LINKED: dict[Any, list[tuple[str, str]]] = {
    EventResponse: [("/events/{eventId}", "/id")],
    list[TicketResponse]: [
        ("/events/tickets/{ticketId}", "/0/id"),
        ("/reservations/{reservationId}", "/0/reservationId"),
    ],
    TicketResponse: [
        ("/events/tickets/{ticketId}", "/id"),
        ("/reservations/{reservationId}", "/reservationId"),
    ],
    ReservationResponse: [("/reservations/{reservationId}", "/id")],
    EntryResponse: [("/waiting/{entryId}", "/id")],
}

# The name of a struct, such as EventResponse, in a definition or at the end of a reference.
_SUFFIX = re.compile(rb'\b([A-Z]\w+)Response"')


def describe(routes: Routes, settings: Settings) -> Json:
    """Return the description of all routes, with limits taken from the settings."""
    return _Description(routes, settings).render()


class _Description:
    def __init__(self, routes: Routes, settings: Settings) -> None:
        self._routes = routes
        self._settings = settings
        endpoints = [endpoint for methods in routes.values() for endpoint in methods.values()]
        bodies = [success.type for endpoint in endpoints for success in endpoint.successes]
        types = [*dict.fromkeys(filter(None, bodies)), *Details.__args__]
        schemas, components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        # Generated clients get a class Event, not EventResponse.
        without_suffix = _SUFFIX.sub(rb'\1"', msgspec.json.encode([schemas, components]))
        schemas, self._components = msgspec.json.decode(without_suffix)
        self._schemas = dict(zip(types, schemas, strict=True))
        refusals = [
            refusal for endpoint in endpoints for refusal in endpoint.all_refusals(settings)
        ]
        self._header_names: set[str] = set()  # of all responses
        self._codes_without_details = {
            refusal.code for refusal in refusals if refusal.example_details is None
        }

    def render(self) -> Json:
        handlers_by_tag = {
            _tag(endpoint): endpoint.handler
            for methods in self._routes.values()
            for endpoint in methods.values()
        }
        paths = {
            path: {
                "parameters": [
                    {"$ref": "#/components/parameters/request"},
                    *(_parameter("path", name, UUID, True) for name in _names_in(path)),
                ],
                **{
                    method.lower(): self._operation(endpoint)
                    for method, endpoint in methods.items()
                },
            }
            for path, methods in self._routes.items()
        }
        return {
            "openapi": "3.1.0",
            "info": {
                "title": TITLE,
                "version": version("holdfast"),
                "description": DESCRIPTION,
                "contact": {"name": "The operator of this service"},
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            # No route needs a token, except those that say so.
            "security": [],
            "tags": [
                {"name": name, "description": _first_line(inspect.getmodule(handler))}
                for name, handler in sorted(
                    handlers_by_tag.items(), key=lambda item: TAGS.index(item[0])
                )
            ],
            "paths": paths,
            "components": {
                "schemas": self._components,
                "parameters": {"request": _parameter("header", "X-Request-Id", ANY_TEXT)},
                "headers": {
                    name: {
                        "description": text,
                        "required": name not in ("Idempotency-Replayed", "Retry-After"),
                        "schema": {"type": "string"},
                    }
                    for name, text in HEADERS.items()
                    if name in self._header_names
                },
                **(
                    {"securitySchemes": {"organizer": {"type": "http", "scheme": "bearer"}}}
                    if self._settings.organizer_token
                    else {}
                ),
            },
        }

    def _operation(self, endpoint: Endpoint) -> Json:
        operation: Json = {
            "operationId": _operation_id(endpoint),
            "summary": _first_line(endpoint.handler),
            "description": _text_below_first_line(endpoint.handler),
            "tags": [_tag(endpoint)],
            "parameters": [
                *(_parameter("query", name, reader) for name, reader in endpoint.query.items()),
                *(
                    _parameter("header", header.name, header.reader, header.required)
                    for header in endpoint.headers
                ),
            ],
        }
        if (fields := endpoint.fields(self._settings)) is not None:
            operation["requestBody"] = {
                "required": not endpoint.body_is_optional,
                "content": {"application/json": self._body(endpoint, fields)},
            }
        operation["responses"] = self._responses(endpoint)
        if endpoint.for_organizer and self._settings.organizer_token:
            operation["security"] = [{"organizer": []}]
        return operation

    def _responses(self, endpoint: Endpoint) -> Json:
        responses = {
            str(success.status): {
                "description": _describe_success(success),
                "headers": self._header_references(
                    [*success.headers, *endpoint.caching_headers, "X-Request-Id"]
                ),
                **self._content(success),
                **({"links": links} if (links := dict(self._links(endpoint, success))) else {}),
            }
            for success in endpoint.successes
        }
        refusals = sorted(endpoint.all_refusals(self._settings), key=attrgetter("status"))
        for status, group in groupby(refusals, key=attrgetter("status")):
            by_code = {refusal.code: refusal for refusal in group}
            errors = dict.fromkeys(refusal.error for refusal in by_code.values())
            headers = dict.fromkeys(
                name for refusal in by_code.values() for name in refusal.headers
            )
            responses[str(status)] = {
                "description": "; ".join(errors),
                "headers": self._header_references([*headers, "Cache-Control", "X-Request-Id"]),
                "content": {
                    "application/json": {
                        "schema": _one_of(
                            [self._refusal_schema(refusal) for refusal in by_code.values()]
                        ),
                        "examples": {
                            code: {"value": _render_example(refusal)}
                            for code, refusal in by_code.items()
                        },
                    }
                },
            }
        return dict(sorted(responses.items()))

    def _content(self, success: Success) -> Json:
        if success.type is None:
            return {}
        schema = self._schemas[success.type]
        if success.media_type == EventStream.media_type:
            # OpenAPI before 3.2 cannot describe a stream. Tools expect the schema of one message.
            data = {"type": "string", "contentMediaType": "application/json"}
            schema = {
                "description": "One message of the stream; its id is the event's version.",
                "type": "object",
                "properties": {"id": {"type": "string"}, "data": {**data, "contentSchema": schema}},
                "required": ["id", "data"],
            }
        content: Json = {"schema": schema}
        if success.type in EXAMPLES:
            content["example"] = msgspec.to_builtins(EXAMPLES[success.type])
        return {"content": {success.media_type: content}}

    def _body(self, endpoint: Endpoint, fields: Mapping[str, Reader]) -> Json:
        schema: Json = {
            "type": "object",
            "properties": {name: reader.schema for name, reader in fields.items()},
            "additionalProperties": False,
        }
        required = [name for name, reader in fields.items() if not reader.is_optional]
        schema |= {"minProperties": 1} if endpoint.partial else {"required": required}
        component_name = endpoint.handler.__name__.title().replace("_", "") + "Body"
        # Only the required fields, so that a request with the example succeeds.
        example = {name: fields[name].schema["examples"][0] for name in required}
        return {"schema": self._add_component(component_name, schema), "example": example}

    def _header_references(self, names: list[str]) -> Json:
        self._header_names.update(names)
        return {name: {"$ref": f"#/components/headers/{name}"} for name in names}

    def _refusal_schema(self, refusal: Refusal) -> Json:
        """Return the schema of a refusal, named after its code.

        If a code is used both with and without details, the name of the schema with details ends
        in their type.
        """
        properties: Json = {"error": {"type": "string"}, "code": {"const": refusal.code}}
        name = refusal.code.title().replace("_", "")
        if refusal.example_details is not None:
            properties["details"] = self._schemas[_type_of(refusal.example_details)]
            if refusal.code in self._codes_without_details:
                name += type(refusal.example_details).__name__
        # BAD_REQUEST has no details if a header is bad. Other refusals always have their details.
        required = [field for field in properties if field != "details" or refusal != BAD_REQUEST]
        return self._add_component(
            name, {"type": "object", "properties": properties, "required": required}
        )

    def _add_component(self, name: str, schema: Json) -> Json:
        """Add a schema to the components and return a reference.

        Generated clients name their class after it.
        """
        self._components[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def _links(self, source: Endpoint, success: Success) -> Iterator[tuple[str, Json]]:
        """Yield links from a created or changed object to the operations on it."""
        if source.body is None:
            return
        owner = "$request.body#/userFingerprint"
        has_owner = "userFingerprint" in (source.fields(self._settings) or {})
        for prefix, pointer in _LINKED.get(success.type, []):
            targets = [
                endpoint
                for path, methods in self._routes.items()
                if path == prefix or path.startswith(prefix + "/")
                for endpoint in methods.values()
            ]
            (name,) = _names_in(prefix)
            for target in targets:
                parameters = {f"path.{name}": f"$response.body#{pointer}"}
                link: Json = {"operationId": _operation_id(target), "parameters": parameters}
                if has_owner and OWNER.name in [header.name for header in target.headers]:
                    parameters[f"header.{OWNER.name}"] = owner
                if has_owner and list(target.fields(self._settings) or {}) == ["userFingerprint"]:
                    link["requestBody"] = {"userFingerprint": owner}
                yield _operation_id(target), link


def _type_of(details: Details) -> Any:
    return list[BadField] if isinstance(details, list) else type(details)


def _names_in(path: str) -> list[str]:
    """Return the names of a path's parameters."""
    return re.findall(r"{(\w+)}", path)


def _operation_id(endpoint: Endpoint) -> str:
    """Return the handler's name in camelCase, such as reserveTickets."""
    first, *others = endpoint.handler.__name__.split("_")
    return first + "".join(map(str.title, others))


def _tag(endpoint: Endpoint) -> str:
    return endpoint.handler.__module__.rpartition(".")[2]


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _text_below_first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n\n")[2]


def _describe_success(success: Success) -> str:
    if success.type is None:
        return "Not modified: `If-None-Match` has the current ETag."
    if success.type in (str, dict):
        return "The whole document."
    # The struct itself, or the struct that a list contains.
    (documented,) = getattr(success.type, "__args__", (success.type,))
    return _first_line(documented)


def _parameter(where: str, name: str, reader: Reader, required: bool = False) -> Json:
    schema = dict(reader.schema)
    if reader.default not in (None, ""):
        schema["default"] = reader.default
    return {"name": name, "in": where, "required": required, "schema": schema}


def _one_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"oneOf": schemas}


def _render_example(refusal: Refusal) -> Any:
    if refusal.example_details is not None:
        refusal = refusal.with_details(refusal.example_details)
    return msgspec.json.decode(refuse(refusal).body)
