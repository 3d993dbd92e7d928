-- Loses nothing that cannot be built again.

set local lock_timeout = '2s';

drop index idx_ticket_allocations_expires_at;
drop index idx_ticket_allocations_status;
drop index idx_ticket_allocations_event_id;
drop index idx_ticket_allocations_user_fingerprint_status;
