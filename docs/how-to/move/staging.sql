-- Creates the tables for another system's events and tickets, as they are in two CSV files.
--
-- The first line of each file has the names of its columns. The tables end with the transaction.

create temporary table moved_events (
    old_id text primary key,
    -- The old system's, if it is a UUID; empty for a new one.
    id uuid unique,
    name varchar not null,
    date timestamptz not null,
    total_tickets integer not null,
    -- The old system's own counts: import.sql refuses files with other numbers of tickets.
    sold integer not null,
    held integer not null
) on commit drop;

create temporary table moved_tickets (
    old_id text primary key,
    -- As for events.
    id uuid unique,
    -- The event's old_id.
    event text not null,
    -- A name for what was bought together; empty for a single ticket.
    reservation text,
    -- What its owner will send.
    fingerprint varchar not null,
    -- The reservation's, if the shop may repeat the request; else empty.
    idempotency_key text,
    status allocation_status not null,
    -- The end of a hold, also of one that has ended if it is known.
    expires_at timestamptz,
    -- Empty for now.
    created_at timestamptz
) on commit drop;
