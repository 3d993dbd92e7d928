"""The state: what one process of the service has, from its start to its end."""

from dataclasses import dataclass

from service.database.queries import Queries
from service.logs import RequestLog
from service.settings import Settings
from service.web.leaving import Leaving
from service.web.shared_reads import SharedReads
from service.web.watching import Watchers
from service.write_path.path import WritePath


@dataclass(frozen=True, slots=True)
class Service:
    """Handed to every call."""

    settings: Settings
    write_path: WritePath
    queries: Queries
    watching: Queries
    """The same on a connection that a crowd of readers cannot take."""
    reads: SharedReads
    listing: Queries
    """The same for lists and audits, which take their time: they wait for one another alone."""
    watchers: Watchers
    request_log: RequestLog
    leaving: Leaving
    description: bytes
    """In OpenAPI, as it is sent."""
