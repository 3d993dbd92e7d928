"""Events: create, list, find and update."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

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
    Revision,
    contradictory_terms,
)
from service.rows import SaleStatus
from service.web.endpoints import IF_MATCH, IF_NONE_MATCH, Call
from service.web.fields import (
    EVENT_NAME,
    MOMENT,
    NAME_PART,
    QUERY_BOOLEAN,
    TIMESTAMP,
    choice,
    integer,
    optional,
    query_integer,
    term,
)
from service.web.responses import (
    EventPage,
    EventResponse,
    EventState,
    PageMeta,
    matches_etag,
    respond,
)
from service.web.shared_reads import EncodedEvent
from service.write_path.changes import Update

TERMS = {
    "saleOpensAt": term(MOMENT),
    "saleClosesAt": term(MOMENT),
    "holdSeconds": term(integer(1, limits.LONGEST_HOLD_SECONDS, example=900)),
    "maxHoldSeconds": term(integer(1, limits.LONGEST_HOLD_SECONDS, example=1800)),
    "maxTicketsPerPerson": term(integer(1, limits.MAX_INTEGER, example=4)),
}
EVENT_FIELDS = {
    "name": EVENT_NAME,
    "date": TIMESTAMP,
    "totalTickets": integer(1, limits.MAX_INTEGER, example=100),
    **TERMS,
}
UPDATE_FIELDS = {**EVENT_FIELDS, "revision": optional(integer(1, limits.MAX_BIGINT, example=1))}
LIST_QUERY = {
    "page": query_integer(1, limits.MAX_INTEGER, default=1),
    "limit": query_integer(1, limits.MAX_PAGE_SIZE, default=10),
    "from": TIMESTAMP,
    "to": TIMESTAMP,
    "q": NAME_PART,
    "available": QUERY_BOOLEAN,
    "saleStatus": choice(*get_args(SaleStatus)),
}
FIND_QUERY = {"at": TIMESTAMP}


async def create_event(call: Call) -> Response | Refusal:
    """Create an event.

    Its name and date together are unique. The terms of its sale are optional. `Location` is the
    path of the new event.
    """
    terms = {name: call.body.get(name) for name in TERMS}
    event = await call.service.lookup_queries.create_event(
        call.body["name"], call.body["date"], call.body["totalTickets"], _encode_for_sql(terms)
    )
    if isinstance(event, Refusal):
        return event
    response = EventResponse.of(event)
    headers = {"Location": f"/events/{event.id}", "ETag": response.etag}
    return respond(response, 201, headers)


async def list_events(call: Call) -> Response | Refusal:
    """List events by date, in pages.

    `from` is inclusive, `to` exclusive. `q` is a part of the name, in upper or lower case.
    `available=true` leaves out events that are not on sale or have no available tickets. A page
    after the last is empty.
    """
    page, limit = call.query["page"], call.query["limit"]
    events, total = await call.service.list_queries.list_events(
        dates=_date_range(call.query["from"], call.query["to"]),
        q=call.query["q"],
        available=call.query["available"],
        sale_status=call.query["saleStatus"] or "",
        page_size=limit,
        skip=(page - 1) * limit,
    )
    data = [EventResponse.of(event) for event in events]
    return respond(EventPage(data, PageMeta.of(total, page, limit)))


async def find_event(call: Call) -> Response | Refusal:
    """Find an event, now or at a past time; 304 if the client has the current version.

    Send the `ETag` of the last response in `If-None-Match`. With `at`, the response has the event
    as it was committed at that moment; a moment before the event existed is refused.
    """
    if at := call.query["at"]:
        return await _find_event_at(call, at)
    event = await call.service.shared_events.find(call.id)
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
    if if_none_match and matches_etag(if_none_match, event.etag):
        return Response(status_code=304, headers=headers)
    return Response(event.body, headers=headers, media_type="application/json")


async def update_event(call: Call) -> Response | Refusal:
    """Change the name, the date, the capacity or the terms of sale of an event.

    Only the fields that are sent change; null clears a term. A total below the number of allocated
    tickets is refused. A request that changes nothing makes no new version. With `revision` or
    If-Match it is refused if somebody has changed the event meanwhile.
    """
    outcome = await call.service.write_path.submit(
        Update(call.id, _encode_for_sql(call.body), _read_if_match(call.headers[IF_MATCH.name]))
    )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.event is not None and outcome.code == "granted":
        response = EventResponse.of(outcome.event)
        return respond(response, headers={"ETag": response.etag})
    if outcome.code == "contradictory_terms" and isinstance(outcome.detail, list):
        return contradictory_terms(outcome.detail)
    refusal = CANNOT_UPDATE[outcome.code]
    if outcome.code == "capacity_below_allocated" and isinstance(outcome.detail, int):
        return refusal.with_details(Allocated(outcome.detail))
    if outcome.code == "event_changed" and isinstance(outcome.detail, int):
        return refusal.with_details(Revision(outcome.detail))
    return refusal


def _encode_for_sql(fields: Mapping[str, Any]) -> str:
    """Return fields of a body as a JSON object with the names of their columns."""
    columns = {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name): fields[name] for name in fields}
    return msgspec.json.encode(columns).decode()


def _date_range(since: datetime | None, until: datetime | None) -> str:
    """Return a range of times for PostgreSQL that includes ``since`` and excludes ``until``."""
    if since and until and since > until:
        return "empty"
    return f"[{since or ''},{until or ''})"


def _read_if_match(header: str | None) -> tuple[EventState, ...] | None:
    """Return the states of the event that If-Match accepts; None for any.

    The comparison is strong (RFC 9110, section 13.1.1): a weak ETag matches nothing.
    """
    if header is None or header.strip() == "*":
        return None
    states = (EventState.parse(etag.strip()) for etag in header.split(","))
    return tuple(state for state in states if state)
