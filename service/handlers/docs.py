"""Docs: the service's own description, for programs and for people."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import Response

from service.calls import Call

PAGE = Path(__file__).parent.parent.joinpath("docs.html").read_text()

_scripts = [
    f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    for script in re.findall("<script>(.*?)</script>", PAGE, re.DOTALL)
]
POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
    f"form-action 'none'; frame-ancestors 'none'; script-src {' '.join(_scripts)}"
)
"""What the page may do: run its own script, and ask the service that it came from."""


async def show_openapi(call: Call) -> Response:
    """Describe every route in OpenAPI."""
    return Response(call.service.description, media_type="application/json")


async def show_docs(_: Call) -> Response:
    """Show a page on which the routes can be read and tried."""
    return Response(PAGE, headers={"Content-Security-Policy": POLICY}, media_type="text/html")
