-- Loses nothing that cannot be built again.

set lock_timeout = '2s';
set statement_timeout = '1h';

alter table ticket_allocations
drop constraint if exists reservations_number_each_ticket_once;
