"""Described: what the service says of itself, read by those who hold it to that."""

import json
from collections.abc import Iterable
from typing import Any

from starlette.routing import compile_path

from service.web.openapi import describe
from service.web.responses import encode
from service.web.routes import ROUTES
from tests.support.services import settings_for_tests

Json = dict[str, Any]
Seen = tuple[str, str, int, str]
"""Of an answer: the method and the path that were asked, its status, and its code or ''."""


def operations(told: Json) -> dict[tuple[str, str], Json]:
    """Return what is said of each route, by method and path."""
    return {
        (method.upper(), path): one
        for path, item in told["paths"].items()
        for method, one in item.items()
        if method != "parameters"
    }


def codes_of(told: Json, response: Json) -> set[str]:
    """Return the codes that an answer may have."""
    schemas = [content["schema"] for content in response.get("content", {}).values()]
    named = [one for schema in schemas for one in schema.get("oneOf", [schema])]
    whole = [told["components"]["schemas"].get(one.get("$ref", "")[21:], {}) for one in named]
    return {
        one["properties"]["code"]["const"] for one in whole if "code" in one.get("properties", {})
    }


def responses_of(told: Json, operation: Json) -> set[tuple[int, str]]:
    """Return each status that a route answers, with each of its codes; '' where it has none."""
    return {
        (int(status), code)
        for status, response in operation["responses"].items()
        for code in codes_of(told, response) or {""}
    }


def find_undocumented(seen: Iterable[Seen]) -> list[Seen]:
    """Return those of the answers that the service's description does not know."""
    told = json.loads(encode(describe(ROUTES, settings_for_tests(organizer_token="secret"))))
    described = operations(told)
    unknown = []
    for method, path, status, code in sorted(seen):
        route = next((one for one in ROUTES if compile_path(one)[0].match(path)), None)
        if route is None or method not in ROUTES[route]:
            is_known = (status, code) in [(404, "NOT_FOUND"), (405, "METHOD_NOT_ALLOWED")]
            is_known |= method in ("HEAD", "OPTIONS")
        else:
            is_known = (status, code) in responses_of(told, described[method, route])
        if not is_known:
            unknown.append((method, path, status, code))
    return unknown
