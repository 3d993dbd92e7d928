"""Events: create, list, find and update."""

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
from service.web.endpoints import IF_NONE_MATCH, Call
from service.web.fields import (
    EVENT_NAME,
    NAME_PART,
    QUERY_BOOLEAN,
    TIMESTAMP,
    integer,
    query_integer,
)
from service.web.responses import EventPage, EventResponse, PageMeta, respond
from service.web.shared_reads import EncodedEvent
from service.write_path.changes import Update

EVENT_FIELDS = {
    "name": EVENT_NAME,
    "date": TIMESTAMP,
    "totalTickets": integer(1, limits.MAX_INTEGER, example=100),
}
LIST_QUERY = {
    "page": query_integer(1, limits.MAX_INTEGER, default=1),
    "limit": query_integer(1, limits.MAX_PAGE_SIZE, default=10),
    "from": TIMESTAMP,
    "to": TIMESTAMP,
    "q": NAME_PART,
    "available": QUERY_BOOLEAN,
}
FIND_QUERY = {"at": TIMESTAMP}


async def create_event(call: Call) -> Response | Refusal:
    """Create an event."""
    event = await call.service.lookup_queries.create_event(
        call.body["name"], call.body["date"], call.body["totalTickets"]
    )
    if isinstance(event, Refusal):
        return event
    return respond(EventResponse.of(event), 201, {"Location": f"/events/{event.id}"})


async def list_events(call: Call) -> Response | Refusal:
    """List events by date, in pages."""
    page, limit = call.query["page"], call.query["limit"]
    events, total = await call.service.list_queries.list_events(
        dates=_date_range(call.query["from"], call.query["to"]),
        q=call.query["q"],
        available=call.query["available"],
        page_size=limit,
        skip=(page - 1) * limit,
    )
    data = [EventResponse.of(event) for event in events]
    return respond(EventPage(data, PageMeta.of(total, page, limit)))


async def find_event(call: Call) -> Response | Refusal:
    """Find an event, now or at a past time; 304 if the client has the current version."""
    if at := call.query["at"]:
        return await _find_event_at(call, at)
    event = await call.service.shared_reads.find_event(call.id)
    return EVENT_NOT_FOUND if event is None else _respond(call, event)


async def _find_event_at(call: Call, at: datetime) -> Response | Refusal:
    event = await call.service.lookup_queries.find_event(call.id)
    if event is None:
        return EVENT_NOT_FOUND
    entry = await call.service.lookup_queries.find_ledger_at(call.id, at)
    if entry is None:
        return BAD_REQUEST.with_details([BadField("at", "is before the event existed")])
    return _respond(call, EncodedEvent.of_the_past(EventResponse.of(event.as_of(entry))))


def _respond(call: Call, event: EncodedEvent) -> Response:
    """Return an event; 304 without a body if its ETag is in the header If-None-Match."""
    headers = {"ETag": event.etag}
    if_none_match = call.headers[IF_NONE_MATCH.name]
    if if_none_match and _matches(if_none_match, event.etag):
        return Response(status_code=304, headers=headers)
    return Response(event.body, headers=headers, media_type="application/json")


async def update_event(call: Call) -> Response | Refusal:
    """Change the name, the date or the capacity of an event."""
    # By their names in SQL.
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
        return refusal.with_details(Allocated(outcome.detail))
    return refusal


def _date_range(since: datetime | None, until: datetime | None) -> str:
    """Return a range of times for PostgreSQL that includes ``since`` and excludes ``until``."""
    if since and until and since > until:
        return "empty"
    return f"[{since or ''},{until or ''})"


def _matches(if_none_match: str, etag: str) -> bool:
    """Return whether If-None-Match lists an ETag; the comparison is weak (RFC 9110)."""
    etags = {tag.strip() for tag in if_none_match.split(",")}
    return "*" in etags or etag in etags or f"W/{etag}" in etags
