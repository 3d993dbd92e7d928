"""Events: made, listed, found and updated."""

from datetime import datetime

import msgspec
from starlette.responses import Response

from service import limits
from service.refusals import (
    BAD_REQUEST,
    CANNOT_UPDATE,
    EVENT_NOT_FOUND,
    Allocated,
    BadField,
    Refusal,
)
from service.web.endpoints import KNOWN_TAGS, Call
from service.web.fields import (
    EVENT_NAME,
    MOMENT,
    PART_OF_NAME,
    YES_OR_NO,
    integer,
    number_in_query,
)
from service.web.responses import EventPage, EventResponse, PageMeta, respond
from service.web.shared_reads import EncodedEvent
from service.write_path.changes import Update

EVENT_FIELDS = {
    "name": EVENT_NAME,
    "date": MOMENT,
    "totalTickets": integer(1, limits.MAX_INTEGER, example=100),
}
LIST_QUERY = {
    "page": number_in_query(1, limits.MAX_INTEGER, default=1),
    "limit": number_in_query(1, limits.MAX_PAGE_SIZE, default=10),
    "from": MOMENT,
    "to": MOMENT,
    "q": PART_OF_NAME,
    "available": YES_OR_NO,
}
FIND_QUERY = {"at": MOMENT}


async def create_event(call: Call) -> Response | Refusal:
    """Make an event."""
    event = await call.service.queries.create_event(
        call.body["name"], call.body["date"], call.body["totalTickets"]
    )
    if isinstance(event, Refusal):
        return event
    return respond(EventResponse.of(event), 201, {"Location": f"/events/{event.id}"})


async def list_events(call: Call) -> Response | Refusal:
    """List events by date, a page at a time."""
    page, limit = call.query["page"], call.query["limit"]
    events, total = await call.service.listing.list_events(
        dates=_dates(call.query["from"], call.query["to"]),
        q=call.query["q"],
        available=call.query["available"],
        page_size=limit,
        skip=(page - 1) * limit,
    )
    data = [EventResponse.of(event) for event in events]
    return respond(EventPage(data, PageMeta.of(total, page, limit)))


async def find_event(call: Call) -> Response | Refusal:
    """Find an event, as it is or as it was; unchanged since the caller last looked: a 304."""
    if at := call.query["at"]:
        return await _find_event_at(call, at)
    shown = await call.service.reads.find_event(call.id)
    return EVENT_NOT_FOUND if shown is None else _respond(call, shown)


async def _find_event_at(call: Call, at: datetime) -> Response | Refusal:
    event = await call.service.queries.find_event(call.id)
    if event is None:
        return EVENT_NOT_FOUND
    entry = await call.service.queries.find_ledger_at(call.id, at)
    if entry is None:
        return BAD_REQUEST.because([BadField("at", "is before the event existed")])
    return _respond(call, EncodedEvent.of(EventResponse.of(event.as_of(entry))))


def _respond(call: Call, shown: EncodedEvent) -> Response:
    """Return an event, unless it is what the caller has."""
    headers = {"ETag": shown.etag}
    known = call.headers[KNOWN_TAGS.name]
    if known and _matches(known, shown.etag):
        return Response(status_code=304, headers=headers)
    return Response(shown.body, headers=headers, media_type="application/json")


async def update_event(call: Call) -> Response | Refusal:
    """Rename, move or resize an event."""
    changes = {
        {"totalTickets": "total_tickets"}.get(name, name): value
        for name, value in call.body.items()
    }
    outcome = await call.service.write_path.submit(
        Update(call.id, msgspec.json.encode(changes).decode())
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.event is not None and outcome.code == "granted":
        return respond(EventResponse.of(outcome.event))
    refusal = CANNOT_UPDATE[outcome.code]
    if outcome.code == "capacity_below_allocated" and isinstance(outcome.detail, int):
        return refusal.because(Allocated(outcome.detail))
    return refusal


def _dates(since: datetime | None, until: datetime | None) -> str:
    """Return a tstzrange in PostgreSQL's notation: from is in it, to is not."""
    if since and until and since > until:
        return "empty"
    return f"[{since or ''},{until or ''})"


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether a client's If-None-Match names this ETag; the comparison is weak (RFC 9110)."""
    named = {one.strip() for one in if_none_match.split(",")}
    return "*" in named or etag in named or f"W/{etag}" in named
