-- Reservations: the tickets that were asked for together, in a stable order.
--
-- A reservation is no table: it is an id that its tickets share. The unique constraint
-- orders them, finds them, and is the last line against one key that reserves twice.
-- A ticket that was there before, or is made by hand, is a reservation of its own.
--
-- Runs while the version before it serves: no, the new id of every ticket rewrites the table.
-- depends: 0006_time_ordered_ids

set local lock_timeout = '2s';

alter table ticket_allocations
add column reservation_id uuid not null default time_ordered_uuid(),
add column position integer not null default 1,
add constraint tickets_are_numbered_from_one check (position >= 1),
add constraint reservations_number_each_ticket_once unique (reservation_id, position);
