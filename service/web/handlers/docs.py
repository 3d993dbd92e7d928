"""Docs: the service's own description, for programs and for people."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import Response

from service.web.endpoints import Call

PAGES = Path(__file__).parent.parent / "pages"
INDEX = PAGES.joinpath("index.html").read_text()
DOCS = PAGES.joinpath("docs.html").read_text()


async def show_index(_: Call) -> Response:
    """Show what this service is, and where one reads on."""
    return _respond_page(INDEX)


async def show_docs(_: Call) -> Response:
    """Show a page on which the routes can be read and tried."""
    return _respond_page(DOCS)


async def show_openapi(call: Call) -> Response:
    """Describe every route in OpenAPI."""
    return Response(call.service.description, media_type="application/json")


def _respond_page(page: str) -> Response:
    """Answer a page, which may run the scripts in it, if any, and ask the service it came from."""
    scripts = "".join(
        f" 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall("<script>(.*?)</script>", page, re.DOTALL)
    )
    policy = (
        "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src{scripts}"
    )
    return Response(page, headers={"Content-Security-Policy": policy}, media_type="text/html")
