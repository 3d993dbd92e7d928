"""How long and how much: every bound of the service, and how they add up.

No request waits longer than its deadline. It is spent so: at most QUEUE_SECONDS until the
request is sent to PostgreSQL, and there at most STATEMENT_SECONDS for each statement, of which
LOCK_SECONDS for the event's lock. Whoever still waits when the deadline comes is told then.
Units stand last in each name.
"""

DEADLINE_SECONDS = 5.0
QUEUE_SECONDS = 2.5
"""A change that could not be sent by then is BUSY, and PostgreSQL never hears of it."""
POOL_SECONDS = 1.0
"""For a connection, once it is a batch's or a read's turn."""
LOCK_SECONDS = 1.5
SHARED_LOCK_SECONDS = 0.1
"""For the locks of a batch over many events: it would rather be dealt out than hold them up."""
STATEMENT_SECONDS = 2.0
RETRY_AFTER_SECONDS = 1
TURN_AWAY_SECONDS = 2.0
"""Until somebody is told that the queue is full, which those who come at once again would
otherwise hear ten thousand times a second, and the queue would not be served. For each half as
much more or less, so that they do not all come back at once."""
TURNED_AWAY = 10_000
"""How many may wait to hear it; whoever comes then hears it at once."""

BATCH_REQUESTS = 500
BATCH_TICKETS = 5000
"""What one transaction may move: well within STATEMENT_SECONDS."""
BATCH_TRIES = 3
"""Of a batch that PostgreSQL asks to be tried again: 40P01 and 40001."""
WRITE_CONNECTIONS = 4
"""One is always left for the shared lane, however many events are apart."""
READ_CONNECTIONS = 4
LIST_CONNECTIONS = 2
"""For lists and audits, which may read many rows."""
WATCH_CONNECTIONS = 1
"""For the health check and the streams."""
CONNECTIONS = WRITE_CONNECTIONS + READ_CONNECTIONS + LIST_CONNECTIONS + WATCH_CONNECTIONS
"""What a worker has at most."""
CLOCK_SECONDS = 2.0
"""How far the server's clock may be from ours before we mention it."""
READ_SECONDS = 4.0
"""For a read, the wait for its connection included."""
SHARED_READ_SECONDS = 2.2
"""For a read that many share; who comes too late for one waits for the next, and so twice."""
LOOK_UP_SECONDS = 1.0
"""For finding the event of a ticket, before the ticket's change is lined up."""
HEALTH_SECONDS = 2.0
STUCK_SECONDS = 10.0
"""How long an event stays apart after its lock was not to be had, while nobody asks."""
READS_WAITING = 500
"""Reads that may wait for a connection at once."""
SETTLE_SECONDS = 10
"""For the requests under way when the service stops."""

MAX_HEAD_BYTES = 32 * 1024
"""Of a request's header, its path included: what nginx takes, and more than most."""
HEAD_SECONDS = 10.0
"""For a header to arrive, and for a new connection to send one."""
MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 5.0
"""For a body to arrive; the deadline begins when it is there."""
MAX_DROPPED_BYTES = 1024 * 1024
"""Of a body, with what frames its parts, until nobody looks at it any more."""
PIECE_BYTES = 4096
"""Of what a connection sends, until the answers are gone that it has already to get: the
requests that fit into a piece, some two hundred, are the most that wait behind one another."""
MAX_EVENT_NAME = 255
MAX_FINGERPRINT = 512
MAX_KEY = 255
MAX_REQUEST_ID = 128
FINGERPRINT_BYTES = 32
"""Of a fingerprint that we make: 256 random bits."""
MAX_INTEGER = 2_147_483_647
"""The largest value of PostgreSQL's integer."""
MAX_BIGINT = 9_223_372_036_854_775_807
"""The largest value of PostgreSQL's bigint."""
MAX_PAGE_SIZE = 100
MAX_LEDGER_PAGE_SIZE = 1000

SWEEP_SECONDS = 1.0
SWEEP_EVENTS = 100
SWEEP_TICKETS = 1000
"""How many holds one batch frees in one event, at the least."""

FORGET_SECONDS = 30
"""For the lock of an event whose tickets are to forget whose they are."""

GARBAGE_THRESHOLDS = (20_000, 20, 100)
"""How much is made before Python looks for cycles: a request leaves none, and a look costs most
when a crowd is there."""

LOG_SECONDS = 0.2
"""How long a request's line waits for others, to be written with them."""
REPORT_SECONDS = 1.0
"""How old the gauges of the metrics may be."""

STREAM_LOOK_SECONDS = 0.26
"""How often a process looks for news; longer than the gap, so that four fit into a second."""
STREAM_GAP_SECONDS = 0.25
"""Between two messages to one watcher."""
STREAM_CROWD = 100
STREAM_CROWD_GAP_SECONDS = 1.0
"""The same when more than a crowd watches one event."""
STREAM_QUIET_SECONDS = 15.0
"""After so much silence a comment keeps the connection open."""
STREAM_RETRY_MILLISECONDS = 1000
"""After this a browser that lost its stream comes back."""
MAX_REPLAY = 1000
"""Versions that a stream replays; who has missed more is told the current state."""
MAX_WATCHERS = 10_000
"""Of one process."""
STALL_SECONDS = 20
"""Who takes nothing of what is sent to them for so long has their connection ended by TCP."""
AUDIT_EVENTS = 2000
"""How many events the audit goes through between two looks at its progress bar."""

RECONNECT_SECONDS = 3
"""The pool waits twice as long after each failure, and begins anew after this."""
CONNECT_SECONDS = 10
"""For reaching the database at the start; the contract allows 20 in all."""
KEEP_ALIVE_SECONDS = 30
"""For an idle connection of a client."""
LEAVE_SECONDS = 1.0
"""From SIGTERM on, for a proxy's health check to learn that no more is to be sent."""
LAST_SECONDS = 0.2
"""For a request that was on its way, on a connection that was kept, when the service was told
to stop."""
DRAIN_SECONDS = 7
"""For what was accepted before the service was told to stop."""
