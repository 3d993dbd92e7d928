-- Loses nothing that cannot be built again.

set local lock_timeout = '2s';

drop index idx_ticket_allocations_held;
