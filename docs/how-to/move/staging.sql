-- What another system knows of its events and tickets, as it comes in two CSV files.
--
-- Both tables end with the transaction. The names of their columns are the files' first lines.

create temporary table moved_events (
    old_id text primary key,
    -- Kept where it is a UUID already; empty: a new one.
    id uuid unique,
    name varchar not null,
    date timestamptz not null,
    total_tickets integer not null,
    -- What the other system has counted: import.sql refuses files that have not as many.
    sold integer not null,
    held integer not null
) on commit drop;

create temporary table moved_tickets (
    old_id text primary key,
    -- As above.
    id uuid unique,
    -- The event's old_id.
    event text not null,
    -- What was asked for together, by any name; empty: this ticket alone.
    reservation text,
    -- What its owner will send.
    fingerprint varchar not null,
    -- The reservation's, if the shop may repeat it here; else empty.
    idempotency_key text,
    status allocation_status not null,
    -- Of a hold; of one that has ended, if it is known.
    expires_at timestamptz,
    -- Empty: now.
    created_at timestamptz
) on commit drop;
