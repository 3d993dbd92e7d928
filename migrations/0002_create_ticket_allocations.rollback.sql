-- Loses every ticket.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop table ticket_allocations;
drop type allocation_status;
