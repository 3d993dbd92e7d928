-- Create the four indexes of the schema document, by its names and columns.
--
-- They are built concurrently, without a lock on the tickets, and so outside a transaction. Each
-- is dropped first: an interrupted build leaves an invalid index of the same name. A build waits
-- for every transaction that is older, and no other session queues behind that wait, so it may
-- take minutes.
--
-- Runs while the version before it serves: yes.
-- depends: 0002_create_ticket_allocations
-- transactional: false

set lock_timeout = '10min';
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
