-- One event of a name on a date, also when two are made at once; and the order of the list.
--
-- Runs while the version before it serves: yes, the events are few; it fails when two events
-- share name and date already, which somebody has to settle first.
-- depends: 0007_reservations

set local lock_timeout = '2s';

alter table events
add constraint events_are_unique_by_name_and_date unique (name, date);

create index idx_events_date_id on events (date, id);
