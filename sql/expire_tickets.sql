-- expire_tickets
--
-- Frees the holds whose time is up in the events of a batch, so that whatever follows sees
-- every free ticket, whether or not the sweeper came by.
--
-- parameters
--   event_ids        uuid[]   as given to lock_events, and so the next two
--   ticket_ids       uuid[]
--   reservation_ids  uuid[]
--   most             integer  how many to free in one event, the longest due first: at least
--                             what the batch asks for, so that a free ticket is never called
--                             sold
--
-- returns: event_id and the number of tickets freed, for each event where there were any
-- locks: the tickets it frees, passing over one that somebody holds in psql; their events are
--   locked already (lock_events)
-- never oversells: it only lowers allocated_tickets, by the rows it has itself moved, and a
--   purchased ticket is not reserved. The clock is read after the lock: a hold is over at
--   expires_at, and nobody frees it again while we are here.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v ticket_ids='{}' \
--   -v reservation_ids='{}' -v most=1000 -f sql/expire_tickets.sql

with concerned as (
    select unnest(:'event_ids'::uuid[]) as event_id
    union
    select tickets.event_id
    from ticket_allocations as tickets
    where tickets.id = any(:'ticket_ids'::uuid[])
    union
    select tickets.event_id
    from ticket_allocations as tickets
    where tickets.reservation_id = any(:'reservation_ids'::uuid[])
),

due as (
    select held.id
    from concerned
    cross join lateral (
        select tickets.id
        from ticket_allocations as tickets
        where
            tickets.event_id = concerned.event_id
            and tickets.status = 'reserved'
            and tickets.expires_at <= statement_timestamp()
        order by tickets.expires_at
        limit :'most'::integer
        for update skip locked
    ) as held
),

expired as (
    update ticket_allocations as tickets
    set status = 'expired'
    where
        -- an array: each looked up by its id, however many the planner thinks are due
        tickets.id = any(array(select due.id from due))
        and tickets.status::text = 'reserved' -- text: so that no index by status serves
    returning tickets.event_id
),

counted as (
    select
        event_id,
        count(*)::integer as tickets
    from expired
    group by event_id
),

freed as (
    update events
    set
        allocated_tickets = events.allocated_tickets - counted.tickets,
        version = events.version + 1
    from counted
    where events.id = counted.event_id
    returning events as event, counted.tickets
),

recorded as (
    insert into event_ledger
    select entry.*
    from freed
    cross join lateral ledger_entry(freed.event, 'expired', freed.tickets, null) as entry
)

select
    event_id,
    tickets
from counted
order by event_id;
