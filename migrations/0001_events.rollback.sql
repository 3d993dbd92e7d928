-- Loses every event.

set local lock_timeout = '2s';

drop table events;
