-- A reservation has each position once: the constraint orders its tickets, finds them, and is
-- the last line against one key that reserves twice.
--
-- Its index is built without a lock on the tickets, and so not in a transaction; what a run
-- that was cut off has left is dropped first.
--
-- Runs while the version before it serves: yes.
-- depends: 0007_reservations
-- transactional: false

set lock_timeout = '2s';
set statement_timeout = '1h';

alter table ticket_allocations
drop constraint if exists reservations_number_each_ticket_once;

drop index concurrently if exists reservations_number_each_ticket_once;

create unique index concurrently reservations_number_each_ticket_once
on ticket_allocations (reservation_id, position);

alter table ticket_allocations
add constraint reservations_number_each_ticket_once
unique using index reservations_number_each_ticket_once;
