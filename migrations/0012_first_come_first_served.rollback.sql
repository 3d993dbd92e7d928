-- Loses nothing.

set local lock_timeout = '2s';

drop aggregate tickets_left(integer, integer);
drop function left_after_request(integer, integer, integer);
