"""Docs: the description of the API, for programs and for people."""

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
    """Show a page with links to the docs, the health check and the metrics.

    An HTML page, for a browser.
    """
    return _respond_page(INDEX)


async def show_docs(_: Call) -> Response:
    """Show a page to read about and try every route.

    An HTML page, for a browser. It loads nothing from other hosts.
    """
    return _respond_page(DOCS)


async def show_openapi(call: Call) -> Response:
    """Return the OpenAPI description of every route.

    In OpenAPI 3.1, generated from the code that serves the requests. Limits follow the settings.
    """
    return Response(call.service.openapi, media_type="application/json")


def _respond_page(page: str) -> Response:
    """Return a page that may run only its own scripts and send requests only to the service."""
    scripts = "".join(
        f" 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in re.findall("<script>(.*?)</script>", page, re.DOTALL)
    )
    policy = (
        "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src{scripts}"
    )
    return Response(page, headers={"Content-Security-Policy": policy}, media_type="text/html")
