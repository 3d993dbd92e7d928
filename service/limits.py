"""Every limit of the service: timeouts, sizes and intervals.

A request gets its response within DEADLINE_SECONDS. A change spends at most QUEUE_SECONDS of
that until its batch is sent to PostgreSQL. There each statement may take STATEMENT_SECONDS, and
waiting for the event's lock LOCK_SECONDS. What is not done by the deadline is refused then.
"""

# Changes

# From the moment a change is accepted until its response.
DEADLINE_SECONDS = 5.0
# How long a change may be queued. If it is not sent by then it is refused as BUSY.
QUEUE_SECONDS = 2.5
# Wait for a connection of the pool.
POOL_SECONDS = 1.0
# PostgreSQL's lock_timeout in a batch for one event.
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
# The most that one transaction carries; it finishes well within STATEMENT_SECONDS.
MAX_BATCH_REQUESTS = 500
MAX_BATCH_TICKETS = 5000
# How often a batch is tried when PostgreSQL asks for a retry (SQLSTATE 40001 and 40P01).
BATCH_TRIES = 3
# How long an event whose lock timed out keeps its own lane after the lane is empty.
STUCK_LANE_SECONDS = 10.0
# Finding the events of tickets and reservations before their changes are queued.
EVENT_LOOKUP_SECONDS = 1.0

# Connections of each worker to PostgreSQL

# One of these is always available to the shared lane, however many events have their own.
WRITE_CONNECTIONS = 4
READ_CONNECTIONS = 4
# For lists and audits, which may read many rows.
LIST_CONNECTIONS = 2
# For the health check and the streams.
WATCH_CONNECTIONS = 1
WORKER_CONNECTIONS = WRITE_CONNECTIONS + READ_CONNECTIONS + LIST_CONNECTIONS + WATCH_CONNECTIONS
# Connecting at the start. The contract allows 20 s for the whole start.
CONNECT_SECONDS = 10
# The pool doubles its delay after each failed attempt to connect, and starts over after this.
RECONNECT_SECONDS = 3
# Difference between the clocks of the server and of this machine that is worth a warning.
MAX_CLOCK_SKEW_SECONDS = 2.0

# Reads

# A query, the wait for its connection included.
READ_SECONDS = 4.0
# A query that several requests share. A request that comes too late for the current one waits
# for it and for the next, so for twice as long.
SHARED_READ_SECONDS = 2.2
# The queries of the health check.
HEALTH_CHECK_SECONDS = 2.0
# Reads that may wait for a connection of one pool at once.
MAX_WAITING_READS = 500

# HTTP

# A request's headers with its path; nginx accepts as much.
MAX_HEADER_BYTES = 32 * 1024
# For the headers to arrive, and for the first ones after a connection was opened.
HEADER_SECONDS = 10.0
MAX_BODY_BYTES = 64 * 1024
# For the body to arrive. The deadline starts after it.
BODY_SECONDS = 5.0
# A body, chunk framing included, after which the connection is no longer read.
MAX_DISCARDED_BYTES = 1024 * 1024
# Bytes parsed from one connection before its outstanding responses must be sent; bounds
# pipelining to about 200 requests.
PIPELINE_BYTES = 4096
# An idle keep-alive connection is closed after this.
KEEP_ALIVE_SECONDS = 30
# TCP closes a connection whose client has acknowledged nothing for so long.
TCP_USER_TIMEOUT_SECONDS = 20

# Values from clients; texts in characters

MAX_EVENT_NAME = 255
MAX_FINGERPRINT = 512
MAX_KEY = 255
MAX_REQUEST_ID = 128
MAX_PAGE_SIZE = 100
MAX_LEDGER_PAGE_SIZE = 1000
# The largest values of PostgreSQL's integer and bigint.
MAX_INTEGER = 2_147_483_647
MAX_BIGINT = 9_223_372_036_854_775_807
# Random bytes in a fingerprint that the service creates.
FINGERPRINT_BYTES = 32

# Streams

# Interval between two queries for news; a little more than the gap, so that four fit into 1 s.
STREAM_POLL_SECONDS = 0.26
# Minimum time between two messages to one watcher.
STREAM_GAP_SECONDS = 0.25
# With more than STREAM_CROWD watchers an event uses the longer gap.
STREAM_CROWD = 100
STREAM_CROWD_GAP_SECONDS = 1.0
# After so much silence a comment is sent to keep the connection open.
STREAM_KEEP_ALIVE_SECONDS = 15.0
# Delay before a browser reconnects.
STREAM_RETRY_MILLISECONDS = 1000
# Missed versions that a stream replays; a client that has missed more gets the current state.
MAX_REPLAYED_VERSIONS = 1000
# Watchers of one process.
MAX_WATCHERS = 10_000

# Background work and commands

# Pause of the sweeper when nothing is due.
SWEEP_INTERVAL_SECONDS = 1.0
# Events that the sweeper looks up at once.
SWEEP_EVENTS = 100
# Holds that one batch expires in one event; more if its changes need more tickets.
SWEEP_TICKETS = 1000
# `holdfast forget`: waiting for the lock of an event, and each statement.
FORGET_LOCK_SECONDS = 30
# Events that an audit checks in one query, and by which its progress bar moves.
AUDIT_BATCH_EVENTS = 2000

# The process

# Thresholds of Python's cyclic garbage collector, far above the defaults: a request leaves no
# cycles, and a collection costs most under load.
GC_THRESHOLDS = (20_000, 20, 100)
# How long the log lines of requests are collected before they are written together.
LOG_FLUSH_SECONDS = 0.2
# Interval at which the gauges of the metrics are updated.
GAUGE_INTERVAL_SECONDS = 1.0
# From SIGTERM until the listening socket is closed, so that a proxy's health check notices.
LEAVE_SECONDS = 1.0
# How long idle connections stay open during shutdown, for requests that are already on their way.
IDLE_CLOSE_SECONDS = 0.2
# Graceful shutdown: for the responses to the requests that were accepted.
GRACEFUL_SHUTDOWN_SECONDS = 7
# After that, for the transactions that are still under way.
FINISH_WRITES_SECONDS = 10
