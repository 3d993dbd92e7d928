-- Loses which tickets were reserved together, and with it what a repeated key would find.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table ticket_allocations
drop column position,
drop column reservation_id;
