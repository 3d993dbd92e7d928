-- What is held, by event and by the time it runs out: what every batch asks first, what
-- every read takes off, and what the sweeper steps through.
--
-- Partial, because sold and expired tickets pile up and none of them is ever due.
--
-- Runs while the version before it serves: it blocks writes to the tickets while it builds;
-- on a large table build it by hand with `create index concurrently` first.
-- depends: 0012_first_come_first_served

set local lock_timeout = '2s';

create index if not exists idx_ticket_allocations_held
on ticket_allocations (event_id, expires_at)
where status = 'reserved';
