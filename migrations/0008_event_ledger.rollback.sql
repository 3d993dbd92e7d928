-- Loses the history of every event; on the way up each begins with a row of what it has by then.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop trigger events_open_ledger on events;
drop function open_event_ledger();
drop table event_ledger;
drop function refuse_to_change_ledger();
drop type event_change;
