-- list_due_events
--
-- Lists events that have a hold whose time is up, for the sweeper, which hands them to the
-- same write path as any request.
--
-- It steps through the index of what is held from event to event, one look each, and so
-- costs what there are events with holds, not what there are holds or tickets.
--
-- parameters
--   most  integer  how many events at the most
--
-- returns: event_id
-- locks: nothing
-- never oversells: it changes no row
--
-- holdfast psql -v most=100 -f sql/list_due_events.sql

with recursive holding as (
    (
        select tickets.event_id
        from ticket_allocations as tickets
        where tickets.status = 'reserved'
        order by tickets.event_id
        limit 1
    )
    union all
    select following.event_id
    from holding
    cross join lateral (
        select tickets.event_id
        from ticket_allocations as tickets
        where tickets.status = 'reserved' and tickets.event_id > holding.event_id
        order by tickets.event_id
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
            tickets.event_id = holding.event_id
            and tickets.status = 'reserved'
            and tickets.expires_at <= statement_timestamp()
    )
order by holding.event_id
limit :'most'::integer;
