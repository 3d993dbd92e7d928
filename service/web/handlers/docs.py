"""Docs: the box office, and the description of the API for programs and for people."""

from starlette.responses import Response

from service.web.endpoints import Call
from service.web.page_files import PAGES, read_box_office, respond_box_office, respond_page

# By whether the organizer needs a token.
BOX_OFFICE = {needed: read_box_office(needs_token=needed) for needed in (False, True)}
DOCS = PAGES.joinpath("docs.html").read_text()


async def show_box_office(call: Call) -> Response:
    """Show the box office: the page on which an organizer watches and runs a sale.

    An HTML page, for a browser. It consists of files below `/box-office/`, and loads nothing from
    other hosts. If the organizer needs a token, the page asks for it.
    """
    return respond_box_office(call, BOX_OFFICE[call.service.settings.organizer_token is not None])


async def show_docs(call: Call) -> Response:
    """Show a page to read about and try every route.

    An HTML page, for a browser. It loads nothing from other hosts.
    """
    return respond_page(call, DOCS)


async def show_openapi(call: Call) -> Response:
    """Return the OpenAPI description of every route.

    In OpenAPI 3.1, generated from the code that serves the requests. Limits follow the settings.
    """
    return Response(call.service.openapi, media_type="application/json")
