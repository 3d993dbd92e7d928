"""The state of one process of the service, from its start to its end."""

from dataclasses import dataclass

from service.database.queries import Queries
from service.logs import RequestLog
from service.rows import WaitingEntry
from service.settings import Settings
from service.web.hosts import Hosts
from service.web.responses import AuditResponse
from service.web.shared_reads import EncodedEvent, SharedReads
from service.web.shutdown_delay import ShutdownDelay
from service.web.watching import Watchers
from service.write_path.path import WritePath


@dataclass(frozen=True, slots=True)
class Service:
    """What every handler can use.

    Lookups, lists, audits and health checks have separate connection pools, so that none of them
    waits for another.
    """

    settings: Settings
    write_path: WritePath
    # Finds single events, tickets and reservations by ID, and creates events.
    lookup_queries: Queries
    # Checks the health of the database. Shares its pool with the streams.
    health_queries: Queries
    # Finds events by ID, one query for all concurrent requests. Shares the pool of the lookups.
    shared_events: SharedReads[EncodedEvent]
    # Reads lists, which may have many rows.
    list_queries: Queries
    # Audits events, one query for all concurrent requests: an audit may take seconds.
    shared_audits: SharedReads[AuditResponse]
    # Finds entries of waiting lists: one query reads the line for all who ask for their place.
    shared_entries: SharedReads[WaitingEntry]
    watchers: Watchers
    hosts: Hosts
    request_log: RequestLog
    shutdown_delay: ShutdownDelay
    # The OpenAPI description, encoded.
    openapi: bytes
