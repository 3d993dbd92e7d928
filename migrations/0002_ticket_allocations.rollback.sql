-- Loses every ticket.

set local lock_timeout = '2s';

drop table ticket_allocations;
drop type allocation_status;
