-- lock_events
--
-- Locks the events of a batch, so that nobody else changes their tickets until the commit. It is
-- the first statement of every transaction that moves a ticket, after limit_waits, and does nothing
-- else: a statement's snapshot and clock are taken when it begins, so what is counted must be
-- counted in a later statement, which begins after the lock was granted.
--
-- parameters
--   event_ids        uuid[]  the events themselves
--   ticket_ids       uuid[]  tickets, for the events that they belong to: a ticket never changes
--                            its event
--   reservation_ids  uuid[]  reservations, likewise
--
-- returns: one row for each event that exists
--   id                 in the order of the locks
--   waited             seconds until it was locked
--   has_line           whether people wait in line for its tickets
--   available_tickets  how many it has, before anything expires
--
-- locks: rows of events, for update, in the order of their ids. Every writer, the sweeper included,
--   begins with this statement, so all lock in the same order and none waits in a circle.
--
-- never oversells: from here to the commit nobody else changes a count of these events.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v ticket_ids='{}' \
--   -v reservation_ids='{}' -f sql/lock_events.sql

with locked as (
    select
        events.id,
        events.waiting_tickets > 0 as has_line,
        events.total_tickets - events.allocated_tickets as available_tickets
    from events
    where
        -- An array and not a join: each event is looked up by its id, however many there are.
        events.id = any(array(
            select unnest(:'event_ids'::uuid[])
            union
            select tickets.event_id
            from ticket_allocations as tickets
            where tickets.id = any(:'ticket_ids'::uuid[])
            union
            select tickets.event_id
            from ticket_allocations as tickets
            where tickets.reservation_id = any(:'reservation_ids'::uuid[])
        ))
    order by events.id
    for update of events
)

select
    id,
    extract(epoch from clock_timestamp() - statement_timestamp())::double precision as waited,
    has_line,
    available_tickets
from locked;
