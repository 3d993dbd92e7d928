"""Every limit of the service: timeouts, sizes and intervals.

A request gets its response within DEADLINE_SECONDS. A change may be queued for QUEUE_SECONDS of
that time before its batch is sent to PostgreSQL. There, each statement may take STATEMENT_SECONDS,
of which it may wait LOCK_SECONDS for an event's lock. A change that was sent and has no outcome by
the deadline is refused as OUTCOME_UNKNOWN.

A lane is a queue of changes, whose batches run one after another (``write_path.lanes``). Events
share one lane, but an event that is locked or whose changes fail has its own.
"""

# Changes

# How long a change may take, from its acceptance to its response.
DEADLINE_SECONDS = 5.0
# How long a change may be queued. If it is not sent by then it is refused as BUSY.
QUEUE_SECONDS = 2.5
# How long to wait for a connection from the pool.
POOL_SECONDS = 1.0
# PostgreSQL's lock_timeout in a batch for one event. A batch may wait for several locks, one after
# the other; then STATEMENT_SECONDS limits them.
LOCK_SECONDS = 1.5
# The same in a batch across events: short, because its changes can be moved to lanes of their own.
SHARED_LOCK_SECONDS = 0.1
# PostgreSQL's statement_timeout.
STATEMENT_SECONDS = 2.0
# The header Retry-After of BUSY and OUTCOME_UNKNOWN.
RETRY_AFTER_SECONDS = 1
# Delay before answering BUSY when the queue is full, with ±50 % jitter: clients that ignore
# Retry-After would otherwise starve the queue.
BUSY_DELAY_SECONDS = 2.0
# Refusals that may be delayed at once; further ones are sent immediately.
MAX_DELAYED_REFUSALS = 10_000
# The most changes, and tickets, in one transaction. It finishes well within STATEMENT_SECONDS.
MAX_BATCH_CHANGES = 500
MAX_BATCH_TICKETS = 5000
# How many changes of one ticket or reservation wait for the next batch because they must not share
# one with an earlier change.
MAX_CHANGES_ASIDE = 20
# How often a batch is tried when PostgreSQL asks for a retry (SQLSTATE 40001, 40P01, or CIINF
# of Citus).
BATCH_TRIES = 3
# How long an event whose lock timed out keeps its own lane after the lane is empty.
STUCK_LANE_SECONDS = 10.0
# How long a query for the events of tickets and reservations may take.
EVENT_LOOKUP_SECONDS = 1.0

# Connections of each worker to PostgreSQL

# One of these is reserved for the shared lane, however many events have lanes of their own.
WRITE_CONNECTIONS = 4
READ_CONNECTIONS = 4
# For lists, which may read many rows.
LIST_CONNECTIONS = 2
# For audits, which may take seconds, so that those who ask for them delay no list and no stream.
AUDIT_CONNECTIONS = 1
# For the health check and the streams.
WATCH_CONNECTIONS = 1
WORKER_CONNECTIONS = (
    WRITE_CONNECTIONS + READ_CONNECTIONS + LIST_CONNECTIONS + AUDIT_CONNECTIONS + WATCH_CONNECTIONS
)
# How long to wait for a connection at the start. The whole start may take 20 s.
CONNECT_SECONDS = 10
# A connection that is in use for longer than this is given up: no response will come. It is longer
# than any deadline, so that nobody waits for the response by then.
GIVE_UP_SECONDS = 8.0
# A failed attempt to connect is repeated once after this time, then whenever a request needs a
# connection. So after a restart of PostgreSQL, a request waits little longer than this for one:
# less than POOL_SECONDS. With a longer time, the pool would pause for a second and more.
RECONNECT_SECONDS = 0.2
# A larger difference between PostgreSQL's clock and the clock of this machine logs a warning.
MAX_CLOCK_SKEW_SECONDS = 2.0
# A warning is also logged if PostgreSQL takes longer than this to detect a lost client.
MAX_LOST_CLIENT_SECONDS = 60

# Reads

# How long a query may take, including the wait for its connection.
READ_SECONDS = 4.0
# How long a query that several requests share may take. A request that arrives while one runs
# waits for it and for the next one, so for up to twice as long.
SHARED_READ_SECONDS = 2.2
# Pause between two queries that read waiting lists for all who ask for their place.
LINE_READ_PAUSE_SECONDS = 0.25
# How long the queries of the health check may take.
HEALTH_CHECK_SECONDS = 2.0
# How many reads may wait for a connection of one pool at once.
MAX_WAITING_READS = 500

# HTTP

# The size of a request's headers and path; nginx accepts as much.
MAX_HEADER_BYTES = 32 * 1024
# How long a request's headers may take to arrive, from their first byte; for the first request,
# from the opening of the connection.
HEADER_SECONDS = 10.0
MAX_BODY_BYTES = 64 * 1024
# How long a request's body may take to arrive. DEADLINE_SECONDS begin after that.
BODY_SECONDS = 5.0
# After an early refusal, the rest of the request's body is read and discarded, so that the client
# receives the response. After this many bytes of one body, including its chunk framing, all input
# of the connection is ignored.
MAX_DISCARDED_BYTES = 1024 * 1024
# How many bytes of one connection are parsed at once. No more are parsed while a request waits for
# the response to an earlier one, which bounds pipelining to about 200 requests.
PIPELINE_BYTES = 4096
# An idle keep-alive connection is closed after this.
KEEP_ALIVE_SECONDS = 30
# TCP closes a connection when data that was sent is not acknowledged for this long.
TCP_USER_TIMEOUT_SECONDS = 20

# Values from clients and settings; texts in characters

# Counted in NFC.
MAX_EVENT_NAME = 255
# The most characters in which a client may send such a name: in upper case and decomposed, one
# character becomes up to four. A longer text is refused before it is normalized, because the time
# for that grows with the square of the length.
MAX_NAME_SPELLING = 4 * MAX_EVENT_NAME
MAX_FINGERPRINT = 512
MAX_KEY = 255
MAX_REQUEST_ID = 128
# Items on a page: of events, of tickets, of a ledger.
MAX_PAGE_SIZE = 100
MAX_TICKET_PAGE_SIZE = 1000
MAX_LEDGER_PAGE_SIZE = 1000
# The most that a setting or a term of sale may set for a hold: a year.
LONGEST_HOLD_SECONDS = 31_536_000
# The longest Retry-After of a sale that has not opened.
MAX_RETRY_AFTER_SECONDS = 3600
# The largest values of PostgreSQL's integer and bigint.
MAX_INTEGER = 2_147_483_647
MAX_BIGINT = 9_223_372_036_854_775_807
# Random bytes in a fingerprint that the service creates.
FINGERPRINT_BYTES = 32

# Streams

# Interval between two queries for changed events. It is a little longer than STREAM_GAP_SECONDS, so
# that what a query finds can be sent at once.
STREAM_POLL_SECONDS = 0.26
# Minimum time between two messages to one watcher.
STREAM_GAP_SECONDS = 0.25
# An event with more than STREAM_CROWD watchers uses the longer gap.
STREAM_CROWD = 100
STREAM_CROWD_GAP_SECONDS = 1.0
# After this time without a message, a comment is sent to keep the connection open.
STREAM_KEEP_ALIVE_SECONDS = 15.0
# Delay before a browser reconnects.
STREAM_RETRY_MILLISECONDS = 1000
# How many missed versions a stream sends; a client that has missed more gets the current state.
MAX_REPLAYED_VERSIONS = 1000
# How many watchers one process accepts.
MAX_WATCHERS = 10_000

# Background work and commands

# Pause of the sweeper when nothing is due.
SWEEP_INTERVAL_SECONDS = 1.0
# How many events the sweeper finds with one query.
SWEEP_EVENTS = 100
# How many holds one batch expires, in all its events together. Each event has an equal share, or
# as many as the tickets that the batch's changes need in it, if these are more.
SWEEP_TICKETS = 1000
# How long `holdfast forget` waits for the lock of an event, and for each statement.
FORGET_LOCK_SECONDS = 30
# How many events an audit checks with one query; its progress bar advances by as many.
AUDIT_BATCH_EVENTS = 2000

# The process

# Thresholds of Python's cyclic garbage collector, far above the defaults: a request leaves no
# cycles, and a collection costs most under load.
GC_THRESHOLDS = (20_000, 20, 100)
# How long log lines of requests are collected before they are written together.
LOG_FLUSH_SECONDS = 0.2
# Interval at which the gauges of the metrics are updated.
GAUGE_INTERVAL_SECONDS = 1.0
# Time from SIGTERM until no further clients are connected. Meanwhile a proxy's health check fails,
# and the proxy stops sending requests.
SHUTDOWN_DELAY_SECONDS = 1.0
# How long the workers then accept the clients that the kernel has connected by then, before they
# close the socket.
ACCEPT_SECONDS = 0.2
# How long idle connections stay open during shutdown, for requests that are already on their way.
IDLE_CLOSE_SECONDS = 0.2
# How long a graceful shutdown waits for the responses to accepted requests.
GRACEFUL_SHUTDOWN_SECONDS = 7
# How long it then waits for transactions that are still under way.
FINISH_WRITES_SECONDS = 10
# How long each pool's own tasks may take to end when it is closed. A task that is connecting to a
# server which does not respond takes longer, and is canceled.
CLOSE_POOL_SECONDS = 1.0
# How long the parent waits for its workers before it kills them: longer than all of the above.
STOP_WORKERS_SECONDS = 25
