-- What is held, by event and by the time it runs out: what every batch asks first, what
-- every read takes off, and what the sweeper steps through.
--
-- Partial, because sold and expired tickets pile up and none of them is ever due. Built
-- without a lock on the tickets, and so not in a transaction.
--
-- Runs while the version before it serves: yes.
-- depends: 0013_first_come_first_served
-- transactional: false

set lock_timeout = '2s';
set statement_timeout = '1h';

drop index concurrently if exists idx_ticket_allocations_held;

create index concurrently idx_ticket_allocations_held
on ticket_allocations (event_id, expires_at)
where status = 'reserved';
