-- Loses nothing that cannot be built again.

set lock_timeout = '10min';
set statement_timeout = '1h';

drop index concurrently if exists idx_ticket_allocations_held;
