-- list_due_events
--
-- Lists events that have a hold whose time is up, for the sweeper, which hands them to the write
-- path like any request.
--
-- It steps through the index of holds from event to event, with one lookup each, so its cost grows
-- with the number of events that have holds and not with the number of holds or tickets.
--
-- parameters
--   most  integer  how many events at most
--
-- returns: event_id, in order
--
-- holdfast psql -v most=100 -f sql/list_due_events.sql

with recursive holding as (
    (
        select tickets.held_event_id as event_id
        from ticket_allocations as tickets
        where tickets.held_event_id is not null
        order by tickets.held_event_id
        limit 1
    )
    union all
    select following.event_id
    from holding
    cross join lateral (
        select tickets.held_event_id as event_id
        from ticket_allocations as tickets
        where tickets.held_event_id > holding.event_id
        order by tickets.held_event_id
        limit 1
    ) as following
)

select holding.event_id
from holding
where
    exists (
        select
        from ticket_allocations as tickets
        where
            tickets.held_event_id = holding.event_id
            and tickets.held_until <= statement_timestamp()
    )
order by holding.event_id
limit :'most'::integer;
