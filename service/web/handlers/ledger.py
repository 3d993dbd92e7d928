"""Ledger: the history of an event, its live stream, and its audit."""

from contextlib import ExitStack

from starlette.responses import Response

from service import limits
from service.refusals import BUSY, EVENT_NOT_FOUND, Refusal
from service.rows import Event
from service.web.endpoints import LAST_EVENT_ID, Call
from service.web.fields import ANY_TEXT, query_integer
from service.web.responses import (
    LedgerEntryResponse,
    LedgerMeta,
    LedgerPage,
    respond,
)
from service.web.watching import EventStream, Message, Watcher

LIST_QUERY = {
    "after": query_integer(0, limits.MAX_BIGINT, default=0),
    "limit": query_integer(1, limits.MAX_LEDGER_PAGE_SIZE, default=100),
}
# For clients that cannot send the header Last-Event-ID.
STREAM_QUERY = {"lastEventId": ANY_TEXT}


async def list_ledger(call: Call) -> Response | Refusal:
    """List the entries of an event's ledger that follow a version.

    One entry for each version, in order. Send `meta.next` as `after` to get the following page; it
    is null at the end.
    """
    after, limit = call.query["after"], call.query["limit"]
    # One more than the page holds, to see whether there is another page.
    entries = await call.service.list_queries.list_ledger(call.id, after, limit + 1)
    if not entries and await call.service.lookup_queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    page = entries[:limit]
    next_after = page[-1].version if len(entries) > limit else None
    data = [LedgerEntryResponse.of(entry) for entry in page]
    return respond(LedgerPage(data, LedgerMeta(after, limit, next_after)))


async def check_event(call: Call) -> Response | Refusal:
    """Audit an event: check its counts against its tickets and its ledger.

    All rules are checked in one snapshot of the database. A difference is a bug, or a change that
    was made in the database by hand.
    """
    result = await call.service.shared_audits.find(call.id)
    return EVENT_NOT_FOUND if result is None else respond(result)


async def stream_event(call: Call) -> Response | Refusal:
    """Stream an event: its current state, then every change.

    Server-Sent Events; the `id` of a message is the event's version. To resume, send the last one
    in the header `Last-Event-ID`, or in `lastEventId` if the client cannot send that header: the
    stream begins with the versions missed. Versions may be skipped while the event changes quickly,
    but never the newest.
    """
    watchers = call.service.watchers
    if watchers.closed or watchers.count >= limits.MAX_WATCHERS:
        return BUSY
    # Watch before reading the event, so that no change in between is missed.
    with ExitStack() as watching:
        watcher = watching.enter_context(watchers.watch(call.id))
        event = await call.service.lookup_queries.find_event(call.id)
        if event is None:
            return EVENT_NOT_FOUND
        first_messages = await _list_first_messages(call, watcher, event)
        # From here on the stream removes the watcher, when it ends.
        return EventStream(watchers, watcher, first_messages, watching.pop_all())


async def _list_first_messages(call: Call, watcher: Watcher, event: Event) -> list[Message]:
    """Return the messages that a stream begins with; let the watcher get only later versions.

    A client that sends the version it knows in Last-Event-ID gets each version since then, if there
    are at most MAX_REPLAYED_VERSIONS. Any other client gets the current state. The parameter
    lastEventId is used only without the header: a browser that reconnects sends the header, and its
    URL still has the parameter of its first request.
    """
    header = call.headers[LAST_EVENT_ID.name]
    text = (call.query["lastEventId"] if header is None else header) or ""
    is_version = text.isascii() and text.isdigit() and len(text) < 19  # less than 2**63
    known_version = int(text) if is_version else None
    if known_version == event.version:
        watcher.version = known_version
        return []
    list_ledger = call.service.list_queries.list_ledger
    oldest = event.version - limits.MAX_REPLAYED_VERSIONS
    if known_version is not None and oldest <= known_version < event.version:
        entries = await list_ledger(event.id, known_version, limits.MAX_REPLAYED_VERSIONS)
        first_messages = [Message.of(event.as_of(entry), entry) for entry in entries]
    else:
        entries = await list_ledger(event.id, event.version - 1, 1)
        first_messages = [Message.of(event, entry) for entry in entries]
    # The ledger is read after the event, so it may have newer versions.
    watcher.version = max([event.version, *(message.version for message in first_messages)])
    return first_messages
