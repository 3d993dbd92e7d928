-- Loses nothing.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop function hold_verdict(ticket_allocations, text);
drop function status_now(ticket_allocations);
