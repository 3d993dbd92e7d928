-- Loses nothing.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop aggregate tickets_left(integer, integer);
drop function left_after_request(integer, integer, integer);
