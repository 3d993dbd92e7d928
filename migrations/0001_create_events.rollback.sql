-- Loses every event.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop table events;
