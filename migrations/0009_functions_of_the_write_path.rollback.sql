-- Loses nothing.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop aggregate remaining_after(integer[], integer, integer);
drop function take_turn(integer[], integer[], integer, integer);
drop function derived_id(uuid, bigint, integer);
drop function hold_outcome(allocation_status, timestamptz, timestamptz);
drop function status_at(allocation_status, timestamptz, timestamptz);
