-- Loses nothing: who owns each ticket stays as it is.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop aggregate allowances_after(integer[], integer, integer);
drop function pass_ticket(integer[], integer[], integer, integer);
