-- The four indexes of the schema document, by its names.
--
-- Built without a lock on the tickets, and so not in a transaction. Each is dropped first:
-- one whose building was cut off lies there, invalid, and would pass for the real one.
--
-- Runs while the version before it serves: yes.
-- depends: 0002_ticket_allocations
-- transactional: false

set lock_timeout = '2s';
set statement_timeout = '1h';

drop index concurrently if exists idx_ticket_allocations_user_fingerprint_status;
create index concurrently idx_ticket_allocations_user_fingerprint_status
on ticket_allocations (user_fingerprint, status);

drop index concurrently if exists idx_ticket_allocations_event_id;
create index concurrently idx_ticket_allocations_event_id
on ticket_allocations (event_id);

drop index concurrently if exists idx_ticket_allocations_status;
create index concurrently idx_ticket_allocations_status
on ticket_allocations (status);

drop index concurrently if exists idx_ticket_allocations_expires_at;
create index concurrently idx_ticket_allocations_expires_at
on ticket_allocations (expires_at);
