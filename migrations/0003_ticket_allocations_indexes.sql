-- The four indexes of the schema document, by its names.
--
-- Runs while the version before it serves: it blocks writes to the tickets while it
-- builds; on a large table build them by hand with `create index concurrently` first.
-- depends: 0002_ticket_allocations

set local lock_timeout = '2s';

create index if not exists idx_ticket_allocations_user_fingerprint_status
on ticket_allocations (user_fingerprint, status);

create index if not exists idx_ticket_allocations_event_id
on ticket_allocations (event_id);

create index if not exists idx_ticket_allocations_status
on ticket_allocations (status);

create index if not exists idx_ticket_allocations_expires_at
on ticket_allocations (expires_at);
