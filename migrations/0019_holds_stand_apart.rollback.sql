-- Loses nothing: the indexes are built as they were.

set lock_timeout = '2s';
set statement_timeout = '1h';

drop index concurrently if exists idx_ticket_allocations_status;
create index concurrently idx_ticket_allocations_status
on ticket_allocations (status);

drop index concurrently if exists idx_ticket_allocations_expires_at;
create index concurrently idx_ticket_allocations_expires_at
on ticket_allocations (expires_at);
