-- Index what is held by event and by the time it expires: what each batch reads first, what every
-- read of an event subtracts, and what the sweeper steps through.
--
-- The index is partial, because sold and expired tickets accumulate and none of them is due. It is
-- on columns that no other index has, so that the planner has no choice: with event_id and
-- expires_at it could take one of the document's indexes by what the statistics say on the night
-- before a sale, and read every ticket that was ever sold.
--
-- Runs while the version before it serves: yes.
-- depends: 0009_functions_of_the_write_path
-- transactional: false

set lock_timeout = '10min';
set statement_timeout = '1h';

drop index concurrently if exists idx_ticket_allocations_held;

create index concurrently idx_ticket_allocations_held
on ticket_allocations (held_event_id, held_until)
where held_event_id is not null;
