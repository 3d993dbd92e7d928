-- Loses nothing.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table event_private
add column kind event_change,
add column actor varchar,
add column reserved integer not null default 0,
add column purchased integer not null default 0,
add column expired integer not null default 0,
add column cancelled integer not null default 0,
add column refunded integer not null default 0;

drop function ledger_entry(events, event_change, integer, text);
