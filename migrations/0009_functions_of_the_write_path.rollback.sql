-- Loses nothing.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop aggregate available_after(integer, integer);
drop function available_after_request(integer, integer, integer);
drop function derived_id(uuid, bigint, integer);
drop function hold_outcome(allocation_status, timestamptz, timestamptz);
drop function status_at(allocation_status, timestamptz, timestamptz);
