"""The files of the pages: the box office and its parts, and the page of the API."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.responses import Response

from service.web.endpoints import IF_NONE_MATCH, Call, Endpoint
from service.web.responses import matches_etag

PAGES = Path(__file__).parent / "pages"
PARTS = PAGES / "box-office"

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# A page may load only its own files, and send requests only to the service.
_POLICY = (
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; "
)
# The box office consists of files; nothing that stands in its HTML may run.
_FILES_ONLY = _POLICY + "script-src 'self'; style-src 'self'; img-src 'self'"

# What says in index.html whether an organizer needs a token.
_MARK = 'data-organizer-token="{}"'


def read_box_office(*, needs_token: bool) -> str:
    """Return the HTML of the box office, which asks for a token if the service needs one."""
    page = PAGES.joinpath("index.html").read_text()
    if needs_token:
        page = page.replace(_MARK.format("not required"), _MARK.format("required"))
    return page


def respond_box_office(call: Call, page: str) -> Response:
    """Return the page of the box office."""
    return _respond(call, page.encode(), "text/html", _FILES_ONLY)


def respond_page(call: Call, page: str) -> Response:
    """Return a page whose scripts and styles are part of it; no others may run."""
    scripts = "".join(
        f" 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall("<script>(.*?)</script>", page, re.DOTALL)
    )
    policy = f"{_POLICY}style-src 'unsafe-inline'; script-src{scripts}"
    return _respond(call, page.encode(), "text/html", policy)


def _respond(call: Call, body: bytes, media_type: str, policy: str | None = None) -> Response:
    """Return a file; 304 if the client has it, by the hash of its content as its ETag."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag}
    if_none_match = call.headers[IF_NONE_MATCH.name]
    if if_none_match and matches_etag(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    if policy is not None:
        headers["Content-Security-Policy"] = policy
    return Response(body, headers=headers, media_type=media_type)


def _serve(file: Path) -> Callable[[Call], Awaitable[Response]]:
    body, media_type = file.read_bytes(), MEDIA_TYPES[file.suffix]

    async def serve(call: Call) -> Response:
        return _respond(call, body, media_type)

    return serve


# A route for each file of the box office. They are parts of a page and not of the API, so the
# OpenAPI description does not have them.
PART_ROUTES = {
    f"/{PARTS.name}/{file.name}": {
        "GET": Endpoint(_serve(file), cache_control="no-cache", headers=[IF_NONE_MATCH])
    }
    for file in sorted(PARTS.iterdir())
    if file.suffix in MEDIA_TYPES
}
