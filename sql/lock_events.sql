-- lock_events
--
-- Locks the events that a batch of changes concerns. In every transaction that moves a ticket
-- it comes before all that reads or writes (limit_waits does neither), and alone: what the
-- statements behind it read and count, they read with a snapshot and a clock taken after the
-- lock was held. Counted here, in the statement that waits, it would be the state of before
-- the wait.
--
-- parameters
--   event_ids        uuid[]  the events themselves
--   ticket_ids       uuid[]  tickets, for the events they belong to: a ticket never changes
--                            its event
--   reservation_ids  uuid[]  reservations, likewise
--
-- returns: the id of each event that exists, in the order of the locks, and waited: the
--   seconds until it was had
-- locks: rows of events, for update, in the order of their ids. Every writer begins with this
--   statement, the sweeper among them, so that all agree on the order.
-- never oversells: from here to the commit nobody else changes a count of these events
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v ticket_ids='{}' \
--   -v reservation_ids='{}' -f sql/lock_events.sql

with locked as (
    select events.id
    from events
    where
        -- An array and no join: each is looked up by its id, however many events there are.
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
    extract(epoch from clock_timestamp() - statement_timestamp())::double precision as waited
from locked;
