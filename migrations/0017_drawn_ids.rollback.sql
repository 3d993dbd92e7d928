-- Loses nothing: ids that were made stay.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop function drawn_id(uuid, bigint, integer);
