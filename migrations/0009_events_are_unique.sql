-- One event of a name on a date, also when two are made at once.
--
-- It fails when two events share name and date already, which somebody has to settle first.
-- Its index is built without a lock on the events, and so not in a transaction; what a run that
-- was cut off has left is dropped first.
--
-- Runs while the version before it serves: yes.
-- depends: 0008_reservations_are_numbered
-- transactional: false

set lock_timeout = '2s';
set statement_timeout = '10min';

alter table events
drop constraint if exists events_are_unique_by_name_and_date;

drop index concurrently if exists events_are_unique_by_name_and_date;

create unique index concurrently events_are_unique_by_name_and_date
on events (name, date);

alter table events
add constraint events_are_unique_by_name_and_date
unique using index events_are_unique_by_name_and_date;
