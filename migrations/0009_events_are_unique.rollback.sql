-- Loses nothing that cannot be built again.

set lock_timeout = '2s';
set statement_timeout = '10min';

alter table events
drop constraint if exists events_are_unique_by_name_and_date;
