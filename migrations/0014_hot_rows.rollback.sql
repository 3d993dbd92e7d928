-- Loses nothing.

set local lock_timeout = '2s';

alter table event_private reset (fillfactor);
alter table events reset (fillfactor);
