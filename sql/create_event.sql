-- create_event
--
-- Makes an event with all its tickets available; a trigger opens its ledger at version 1.
--
-- parameters
--   name           varchar
--   date           timestamptz
--   total_tickets  integer
--
-- returns: the event, or no row when there is one of this name on this date
-- locks: the new row alone. Two of the same name and date at once: the second waits for the
--   first and then returns no row.
-- never oversells: a new event has nothing allocated
--
-- holdfast psql -v name='Opening night' -v date='2030-01-01 20:00+00' -v total_tickets=100 \
--   -f sql/create_event.sql

insert into events (name, date, total_tickets)
values (:'name'::varchar, :'date'::timestamptz, :'total_tickets'::integer)
on conflict (name, date) do nothing
returning
    id, name, date, total_tickets, allocated_tickets, created_at, updated_at,
    purchased_tickets, version;
