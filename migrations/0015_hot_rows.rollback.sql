-- Loses nothing.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table event_private reset (fillfactor);
alter table events reset (fillfactor);
