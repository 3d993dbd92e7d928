"""The ledger: what happened to an event, told from the beginning, live, and checked."""

from contextlib import ExitStack

from starlette.responses import Response

from service import limits
from service.refusals import BUSY, EVENT_NOT_FOUND, Refusal
from service.rows import Event
from service.web.endpoints import KNOWN_VERSION, Call
from service.web.fields import number_in_query
from service.web.responses import (
    AuditResponse,
    LedgerEntryResponse,
    LedgerMeta,
    LedgerPage,
    respond,
)
from service.web.watching import EventStream, News, Watcher

LIST_QUERY = {
    "after": number_in_query(0, limits.MAX_BIGINT, default=0),
    "limit": number_in_query(1, limits.MAX_LEDGER_PAGE_SIZE, default=100),
}


async def list_ledger(call: Call) -> Response | Refusal:
    """List an event's ledger, from a version on."""
    after, limit = call.query["after"], call.query["limit"]
    # One more than is shown tells whether there is more.
    entries = await call.service.listing.list_ledger(call.id, after, limit + 1)
    if not entries and await call.service.queries.find_event(call.id) is None:
        return EVENT_NOT_FOUND
    shown = entries[:limit]
    following = shown[-1].version if len(entries) > limit else None
    data = [LedgerEntryResponse.of(entry) for entry in shown]
    return respond(LedgerPage(data, LedgerMeta(after, limit, following)))


async def check_event(call: Call) -> Response | Refusal:
    """Check an event's books."""
    checks = await call.service.listing.check_events([call.id], failed_only=False)
    return respond(AuditResponse.of(checks)) if checks else EVENT_NOT_FOUND


async def stream_event(call: Call) -> Response | Refusal:
    """Tell what an event is, and then whatever it becomes."""
    watchers = call.service.watchers
    if watchers.closed or watchers.count >= limits.MAX_WATCHERS:
        return BUSY
    # It watches before it looks, so that nothing happens between the two.
    with ExitStack() as watching:
        watcher = watching.enter_context(watchers.watching(call.id))
        event = await call.service.queries.find_event(call.id)
        if event is None:
            return EVENT_NOT_FOUND
        missed = await _missed(call, watcher, event)
        return EventStream(watchers, watcher, missed, watching.pop_all())


async def _missed(call: Call, watcher: Watcher, event: Event) -> list[News]:
    """Return what a watcher is told first, and have it told nothing older afterwards."""
    known = call.headers[KNOWN_VERSION.name] or ""
    told = int(known) if known.isascii() and known.isdigit() and len(known) < 19 else None
    if told == event.version:
        watcher.version = told
        return []
    if told is not None and event.version - limits.MAX_REPLAY <= told < event.version:
        entries = await call.service.listing.list_ledger(event.id, told, limits.MAX_REPLAY)
        missed = [News.of(event.as_of(one), one) for one in entries]
    else:
        entries = await call.service.listing.list_ledger(event.id, event.version - 1, 1)
        missed = [News.of(event, one) for one in entries]
    watcher.version = max(event.version, *(news.version for news in missed), 0)
    return missed
