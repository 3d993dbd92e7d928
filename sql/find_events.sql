-- find_events
--
-- Finds events by id, with the counts as they are worth now: a hold whose time is up counts
-- as free, whether or not anything has swept it.
--
-- parameters
--   event_ids  uuid[]
--
-- returns: a row of events for each that exists
-- locks: nothing
-- never oversells: it changes no row. What it shows may be gone when one asks for it; only
--   reserve_tickets decides.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -f sql/find_events.sql

select
    events.id,
    events.name,
    events.date,
    events.total_tickets,
    events.allocated_tickets - lapsed.tickets as allocated_tickets,
    events.created_at,
    events.updated_at,
    events.purchased_tickets,
    events.version
from events
cross join lateral (
    select count(*)::integer as tickets
    from ticket_allocations as tickets
    where
        tickets.event_id = events.id
        and tickets.status = 'reserved'
        and tickets.expires_at <= statement_timestamp()
) as lapsed
where events.id = any(:'event_ids'::uuid[]);
