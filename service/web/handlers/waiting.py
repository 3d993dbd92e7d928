"""Waiting lists: join the line for tickets, find one's place, leave, and list the line."""

from typing import get_args

import psycopg
from starlette.responses import Response

from service import limits
from service.database.connections import UNAVAILABLE
from service.refusals import (
    BAD_REQUEST,
    CANNOT_JOIN,
    CANNOT_LEAVE,
    ENTRY_NOT_FOUND,
    EVENT_NOT_FOUND,
    OUTCOME_UNKNOWN,
    WRONG_FINGERPRINT,
    BadField,
    Refusal,
)
from service.rows import EntryState, Uuid, WaitingEntry
from service.web.endpoints import OWNER, Call
from service.web.fields import UUID, choice, query_integer
from service.web.handlers.tickets import refuse_by_sale
from service.web.responses import EntryPage, EntryPageMeta, EntryResponse, respond
from service.write_path.changes import Join, Leave

LIST_QUERY = {
    "state": choice(*get_args(EntryState)),
    "after": UUID.with_description(
        "List the entries behind this one: send the `next` of the page before."
    ),
    "limit": query_integer(1, limits.MAX_TICKET_PAGE_SIZE, default=10),
}
NOT_IN_LIST = BAD_REQUEST.with_details([BadField("after", "is not an entry of this list")])


async def join_waiting_list(call: Call) -> Response | Refusal:
    """Join the waiting list of an event.

    If tickets are available and nobody is ahead, the entry has an offer at once: a reservation,
    which is paid for like any other. The request may be sent again: it returns the same entry, as
    long as it waits or its offer is open.
    """
    owner: str = call.body["userFingerprint"]
    outcome = await call.service.write_path.submit(Join(call.id, call.body["quantity"], owner))
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code not in ("granted", "replayed"):
        return refuse_by_sale(CANNOT_JOIN[outcome.code], outcome)
    entry = await _find(call, str(outcome.detail))
    if entry is None:
        return OUTCOME_UNKNOWN
    status = 201 if outcome.code == "granted" else 200
    return respond(EntryResponse.of(entry, owner), status, {"Location": f"/waiting/{entry.id}"})


async def find_waiting_entry(call: Call) -> Response | Refusal:
    """Find the caller's entry of a waiting list, with what is ahead of it.

    Once it is `offered`, `reservationId` is the reservation to pay for until `offerExpiresAt`.
    """
    owner: str = call.headers[OWNER.name]
    entry = await call.service.shared_entries.find(call.id)
    if entry is None:
        return ENTRY_NOT_FOUND
    if entry.user_fingerprint != owner:
        return WRONG_FINGERPRINT
    return respond(EntryResponse.of(entry, owner))


async def leave_waiting_list(call: Call) -> Response | Refusal:
    """Leave a waiting list; an open offer is cancelled.

    Refused once a ticket of the offer is purchased. The tickets of the offer are available to the
    next in line at once.
    """
    owner: str = call.headers[OWNER.name]
    found = await call.service.shared_entries.find(call.id)
    if found is None:
        return ENTRY_NOT_FOUND
    outcome = await call.service.write_path.submit(Leave(found.event_id, call.id, owner))
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.code != "granted":
        return CANNOT_LEAVE[outcome.code]
    entry = await _find(call, call.id)
    return OUTCOME_UNKNOWN if entry is None else respond(EntryResponse.of(entry, owner))


async def list_waiting_entries(call: Call) -> Response | Refusal:
    """List the waiting list of an event in the order of the line, without fingerprints.

    A shop learns of offers here: `state=offered` lists those whose buyers have to be told.
    """
    state, after, limit = call.query["state"] or "", call.query["after"], call.query["limit"]
    entries = await call.service.list_queries.list_waiting_entries(call.id, state, after, limit + 1)
    if entries is None:
        return NOT_IN_LIST
    if not entries and await call.service.lookup_queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    page = entries[:limit]
    meta = EntryPageMeta(limit, page[-1].id if len(entries) > limit else None)
    return respond(EntryPage([EntryResponse.of(entry, None) for entry in page], meta))


async def _find(call: Call, entry_id: str) -> WaitingEntry | None:
    """Return an entry that a committed change has just written; None if it cannot be read now."""
    try:
        return await call.service.shared_entries.find(Uuid(entry_id))
    except (psycopg.Error, *UNAVAILABLE):
        return None
