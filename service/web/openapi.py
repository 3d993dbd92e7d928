"""The description in OpenAPI 3.1, made of what reads the requests and renders the answers.

Nothing is said here that the service does not go by: the routes are those that are served, the
fields those that are read, the answers those that are encoded, the refusals those that the
route table names for the route. ``tests/http/test_openapi.py`` holds the service to it.
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
from service.web.endpoints import ASKER, Answer, Endpoint
from service.web.examples import EXAMPLES
from service.web.fields import ANY_TEXT, IDENTIFIER, Reader
from service.web.responses import EventResponse, ReservationResponse, TicketResponse, refuse
from service.web.watching import EventStream

Routes = Mapping[str, Mapping[str, Endpoint]]
Json = dict[str, Any]

TITLE = "Holdfast"
DESCRIPTION = f"""\
Hands out a limited number of tickets to a crowd: never one too many, never one lost.

Every refusal is `{{"error": text for people, "code": CONSTANT}}`, some with `details`. A 4xx means
that nothing was done. What is no path of ours is 404 `NOT_FOUND`; what is no method of a path is
405 `METHOD_NOT_ALLOWED`, and `Allow` names those that are. HEAD works wherever GET does, but for
the stream. A body is `application/json` of at most {limits.MAX_BODY_BYTES} bytes. A field or
parameter that is not known is refused."""

TAGS = ["events", "tickets", "reservations", "ledger", "fingerprints", "health", "docs"]
"""As one reads them, which is as a sale goes."""

HEADERS = {
    "X-Request-Id": "The request's name in the service's log: its own, where it brought one.",
    "Cache-Control": "`no-store`: the answer is for the one who asked.",
    "ETag": "Changes whenever the event's answer does.",
    "Location": "Where the event is.",
    "Idempotency-Replayed": "`true` where the key had reserved before.",
    "Content-Security-Policy": "What the page may do.",
    "Retry-After": "Seconds until it is worth another try.",
    "WWW-Authenticate": "How to prove to be the organizer.",
}
"""What an answer's header says."""

_LINKED: dict[Any, list[tuple[str, str]]] = {
    EventResponse: [("/events/{id}", "/id")],
    list[TicketResponse]: [
        ("/events/tickets/{id}", "/0/id"),
        ("/reservations/{id}", "/0/reservationId"),
    ],
    TicketResponse: [("/events/tickets/{id}", "/id"), ("/reservations/{id}", "/reservationId")],
    ReservationResponse: [("/reservations/{id}", "/id")],
}
"""Under which path one goes on with an answer, and where in it the id stands."""

_ANSWER = re.compile(rb'\b([A-Z]\w+)Response"')
"""The end of a name that ``answers`` has given, or of a reference to it."""


def describe(routes: Routes, settings: Settings) -> Json:
    """Return the description of all routes, with the bounds that are settings."""
    return _Description(routes, settings).whole()


class _Description:
    def __init__(self, routes: Routes, settings: Settings) -> None:
        self._routes = routes
        self._settings = settings
        endpoints = [one for methods in routes.values() for one in methods.values()]
        types = [answer.type for one in endpoints for answer in one.answers if answer.type]
        told = [*dict.fromkeys(types), *Details.__args__]
        schemas, components = msgspec.json.schema_components(
            told, ref_template="#/components/schemas/{name}"
        )
        # A client's code says Event, not EventResponse: it has no rows to tell it from.
        named = _ANSWER.sub(rb'\1"', msgspec.json.encode([schemas, components]))
        schemas, self._components = msgspec.json.decode(named)
        self._schemas = dict(zip(told, schemas, strict=True))
        refusals = [refusal for one in endpoints for refusal in one.all_refusals(settings)]
        self._without_details = {one.code for one in refusals if one.such_as is None}

    def whole(self) -> Json:
        tags = {_tag(one): one.handler for path in self._routes.values() for one in path.values()}
        paths = {
            path: {
                "parameters": [
                    {"$ref": "#/components/parameters/request"},
                    *([_parameter("path", "id", IDENTIFIER, True)] if "{id}" in path else []),
                ],
                **{method.lower(): self._operation(one) for method, one in methods.items()},
            }
            for path, methods in self._routes.items()
        }
        return {
            "openapi": "3.1.0",
            "info": {
                "title": TITLE,
                "version": version("holdfast"),
                "description": DESCRIPTION,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "tags": [
                {"name": name, "description": _first_line(inspect.getmodule(handler))}
                for name, handler in sorted(tags.items(), key=lambda one: TAGS.index(one[0]))
            ],
            "paths": paths,
            "components": {
                "schemas": self._components,
                "parameters": {"request": _parameter("header", "X-Request-Id", ANY_TEXT)},
                "headers": {
                    name: {
                        "description": text,
                        "required": name != "Idempotency-Replayed",
                        "schema": {"type": "string"},
                    }
                    for name, text in HEADERS.items()
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
            "operationId": _name(endpoint),
            "summary": _first_line(endpoint.handler),
            "tags": [_tag(endpoint)],
            "parameters": [
                *(_parameter("query", name, one) for name, one in endpoint.query.items()),
                *(_parameter("header", h.name, h.reader, h.required) for h in endpoint.headers),
            ],
        }
        if (fields := endpoint.fields(self._settings)) is not None:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": self._body(endpoint, fields)},
            }
        operation["responses"] = self._responses(endpoint)
        if endpoint.for_organizer and self._settings.organizer_token:
            operation["security"] = [{"organizer": []}]
        return operation

    def _responses(self, endpoint: Endpoint) -> Json:
        always = ["X-Request-Id", *(["Cache-Control"] if endpoint.is_private else [])]
        responses = {
            str(answer.status): {
                "description": _said_of(answer),
                "headers": _headers([*answer.headers, *always]),
                **self._content(answer),
                **({"links": links} if (links := dict(self._links(endpoint, answer))) else {}),
            }
            for answer in endpoint.answers
        }
        refusals = sorted(endpoint.all_refusals(self._settings), key=attrgetter("status"))
        for status, group in groupby(refusals, key=attrgetter("status")):
            of_status = {refusal.code: refusal for refusal in group}
            named = dict.fromkeys(name for one in of_status.values() for name in one.headers)
            responses[str(status)] = {
                "description": "; ".join(dict.fromkeys(one.error for one in of_status.values())),
                "headers": _headers([*named, *always]),
                "content": {
                    "application/json": {
                        "schema": _any_of([self._refusal(one) for one in of_status.values()]),
                        "examples": {
                            code: {"value": _as_sent(one)} for code, one in of_status.items()
                        },
                    }
                },
            }
        return dict(sorted(responses.items()))

    def _content(self, answer: Answer) -> Json:
        if answer.type is None:
            return {}
        schema = self._schemas[answer.type]
        if answer.media_type == EventStream.media_type:
            # Before 3.2 OpenAPI has no word for it; those who read it take it for one message.
            data = {"type": "string", "contentMediaType": "application/json"}
            schema = {
                "description": "One message of the stream; its id is the event's version.",
                "type": "object",
                "properties": {"id": {"type": "string"}, "data": {**data, "contentSchema": schema}},
                "required": ["id", "data"],
            }
        content: Json = {"schema": schema}
        if answer.type in EXAMPLES:
            content["example"] = msgspec.to_builtins(EXAMPLES[answer.type])
        return {"content": {answer.media_type: content}}

    def _body(self, endpoint: Endpoint, fields: Mapping[str, Reader]) -> Json:
        schema: Json = {
            "type": "object",
            "properties": {name: reader.schema for name, reader in fields.items()},
            "additionalProperties": False,
        }
        schema |= {"minProperties": 1} if endpoint.partial else {"required": list(fields)}
        name = endpoint.handler.__name__.title().replace("_", "") + "Body"
        example = {name: reader.schema["examples"][0] for name, reader in fields.items()}
        return {"schema": self._named(name, schema), "example": example}

    def _refusal(self, refusal: Refusal) -> Json:
        """Return the schema of a refusal, kept under its code.

        Where it has details, and has none elsewhere, the type of them is in the name.
        """
        properties: Json = {"error": {"type": "string"}, "code": {"const": refusal.code}}
        name = refusal.code.title().replace("_", "")
        if refusal.such_as is not None:
            properties["details"] = self._schemas[_type_of(refusal.such_as)]
            if refusal.code in self._without_details:
                name += type(refusal.such_as).__name__
        # A bad header is told in the text alone; all other details are always there.
        required = [one for one in properties if one != "details" or refusal != BAD_REQUEST]
        return self._named(name, {"type": "object", "properties": properties, "required": required})

    def _named(self, name: str, schema: Json) -> Json:
        """Keep a schema under a name, which is what generated code calls it."""
        self._components[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def _links(self, source: Endpoint, answer: Answer) -> Iterator[tuple[str, Json]]:
        """Return what one can go on with after something was made or changed."""
        owner = "$request.body#/userFingerprint"
        knows_owner = "userFingerprint" in (source.fields(self._settings) or {})
        for start, pointer in _LINKED.get(answer.type, []) if source.body is not None else []:
            under = [path for path in self._routes if path == start or path.startswith(start + "/")]
            for target in [one for path in under for one in self._routes[path].values()]:
                parameters = {"path.id": f"$response.body#{pointer}"}
                link: Json = {"operationId": _name(target), "parameters": parameters}
                if knows_owner and ASKER.name in [header.name for header in target.headers]:
                    parameters[f"header.{ASKER.name}"] = owner
                if knows_owner and list(target.fields(self._settings) or {}) == ["userFingerprint"]:
                    link["requestBody"] = {"userFingerprint": owner}
                yield _name(target), link


def _type_of(details: Details) -> Any:
    return list[BadField] if isinstance(details, list) else type(details)


def _name(endpoint: Endpoint) -> str:
    """Return the handler's name, written as all names on the wire are: reserveTickets."""
    first, *others = endpoint.handler.__name__.split("_")
    return first + "".join(map(str.title, others))


def _tag(endpoint: Endpoint) -> str:
    return endpoint.handler.__module__.rpartition(".")[2]


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _said_of(answer: Answer) -> str:
    if answer.type is None:
        return "It is as the caller knows it."
    if answer.type in (str, dict):
        return "As it is."
    (one,) = getattr(answer.type, "__args__", (answer.type,))
    return _first_line(one)


def _parameter(where: str, name: str, reader: Reader, required: bool = False) -> Json:
    schema = dict(reader.schema)
    if reader.default not in (None, ""):
        schema["default"] = reader.default
    return {"name": name, "in": where, "required": required, "schema": schema}


def _headers(names: list[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _any_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"oneOf": schemas}


def _as_sent(refusal: Refusal) -> Any:
    if refusal.such_as is not None:
        refusal = refusal.because(refusal.such_as)
    return msgspec.json.decode(refuse(refusal).body)
