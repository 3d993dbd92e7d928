-- Reservations: the tickets that were asked for together, in a stable order.
--
-- A reservation is no table: it is an id that its tickets share. A ticket that was there
-- before, or is made by hand, is a reservation of its own.
--
-- Runs while the version before it serves: no, a new id for every ticket rewrites the table.
-- depends: 0006_time_ordered_ids

set local lock_timeout = '2s';
set local statement_timeout = '1h';

alter table ticket_allocations
-- Each row needs an id of its own: a rewrite is what it takes.
-- squawk-ignore adding-field-with-default
add column reservation_id uuid not null default time_ordered_uuid(),
add column position integer not null default 1
constraint tickets_are_numbered_from_one check (position >= 1);
