-- create_event
--
-- Creates an event; all its tickets are available. A trigger adds version 1 to its ledger.
--
-- parameters
--   name           varchar
--   date           timestamptz
--   total_tickets  integer
--
-- returns: the event, or no row if there is one of this name on this date
--
-- locks: the new row. Of two requests for the same name and date, the second waits for the first
--   and then returns no row.
--
-- never oversells: nothing of a new event is allocated.
--
-- holdfast psql -v name='Opening night' -v date='2030-01-01 20:00+00' -v total_tickets=100 \
--   -f sql/create_event.sql

insert into events (name, date, total_tickets)
values (:'name'::varchar, :'date'::timestamptz, :'total_tickets'::integer)
on conflict (name, date) do nothing
returning
    id, name, date, total_tickets, allocated_tickets, created_at, updated_at,
    purchased_tickets, version;
