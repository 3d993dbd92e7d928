-- Loses nothing.

set local lock_timeout = '2s';

drop index idx_events_date_id;

alter table events
drop constraint events_are_unique_by_name_and_date;
