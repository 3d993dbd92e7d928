-- Loses nothing that cannot be built again.

set lock_timeout = '10min';
set statement_timeout = '1h';

drop index concurrently if exists idx_ticket_allocations_expires_at;
drop index concurrently if exists idx_ticket_allocations_status;
drop index concurrently if exists idx_ticket_allocations_event_id;
drop index concurrently if exists idx_ticket_allocations_user_fingerprint_status;
