-- Loses nothing: existing ids stay.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table ticket_allocations
alter column id set default gen_random_uuid();

alter table events
alter column id set default gen_random_uuid();

drop function time_ordered_uuid();
