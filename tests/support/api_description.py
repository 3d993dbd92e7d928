"""The service's OpenAPI description, to compare it with real responses."""

import json
from collections.abc import Iterable
from typing import Any

from starlette.routing import compile_path

from service.web.openapi import describe
from service.web.responses import encode
from service.web.routes import ROUTES
from tests.support.services import settings_for_tests

Json = dict[str, Any]
# A kind of response: the method and path of its request, its status, and its code or ''.
ResponseKind = tuple[str, str, int, str]


def operations(description: Json) -> dict[tuple[str, str], Json]:
    """Return the description of each operation, by method and path."""
    return {
        (method.upper(), path): operation
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def codes_of(description: Json, response: Json) -> set[str]:
    """Return the codes that a described response may have."""
    schemas = [content["schema"] for content in response.get("content", {}).values()]
    alternatives = [choice for schema in schemas for choice in schema.get("oneOf", [schema])]
    names = [
        choice.get("$ref", "").removeprefix("#/components/schemas/") for choice in alternatives
    ]
    bodies = [description["components"]["schemas"].get(name, {}) for name in names]
    return {
        body["properties"]["code"]["const"]
        for body in bodies
        if "code" in body.get("properties", {})
    }


def responses_of(description: Json, operation: Json) -> set[tuple[int, str]]:
    """Return the statuses of an operation, each with its codes, or with '' if it has none."""
    return {
        (int(status), code)
        for status, response in operation["responses"].items()
        for code in codes_of(description, response) or {""}
    }


def find_undocumented(responses: Iterable[ResponseKind]) -> list[ResponseKind]:
    """Return the responses that the OpenAPI description does not mention."""
    settings = settings_for_tests(organizer_token="secret")
    description = json.loads(encode(describe(ROUTES, settings)))
    described = operations(description)
    undocumented = []
    for method, path, status, code in sorted(responses):
        route = next((route for route in ROUTES if compile_path(route)[0].match(path)), None)
        if route is None or method not in ROUTES[route]:
            is_documented = (status, code) in [(404, "NOT_FOUND"), (405, "METHOD_NOT_ALLOWED")]
            is_documented |= method in ("HEAD", "OPTIONS")
        else:
            operation = described[method, route]
            is_documented = (status, code) in responses_of(description, operation)
        if not is_documented:
            undocumented.append((method, path, status, code))
    return undocumented
