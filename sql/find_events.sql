-- find_events
--
-- Finds events by id. A hold whose time is up counts as available, whether or not it has been
-- swept.
--
-- parameters
--   event_ids  uuid[]
--
-- returns: one row of events for each that exists. What it shows as available can be gone a moment
--   later: only reserve_tickets decides.
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
    events.version,
    events.sale_opens_at,
    events.sale_closes_at,
    events.hold_seconds,
    events.max_hold_seconds,
    events.max_tickets_per_person,
    events.revision,
    events.waiting_tickets,
    sale_status_at(
        events.sale_opens_at, events.sale_closes_at, statement_timestamp()
    ) as sale_status
from events
cross join lateral (
    select count(*)::integer as tickets
    from ticket_allocations as tickets
    where
        tickets.held_event_id = events.id
        and tickets.held_until <= statement_timestamp()
) as lapsed
where events.id = any(:'event_ids'::uuid[]);
