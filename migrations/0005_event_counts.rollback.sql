-- Loses the versions; how many are purchased is counted again from the tickets on the way up.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table events
drop column version,
drop column purchased_tickets;
