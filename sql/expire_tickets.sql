-- expire_tickets
--
-- Expires the holds whose time is up in the events of a batch. It runs in every batch, right after
-- lock_events, so that the changes behind it find these tickets available, whether or not the
-- sweeper has been there.
--
-- parameters
--   event_ids        uuid[]     as given to lock_events
--   quantities       integer[]  for each of them, how many tickets the batch asks for: at least as
--                               many expire, so that an available ticket is never called sold out
--   ticket_ids       uuid[]     as given to lock_events, as is the next one; these tickets expire
--   reservation_ids  uuid[]     in any case, if they are due
--   most             integer    how many expire in all events of the batch together: each event
--                               has an equal share, or its quantity if that is more, the earliest
--                               holds first. Without it the statement could take longer than it
--                               may
--
-- returns: event_id and tickets, how many expired, for each event that had any
--
-- locks: the tickets that it expires, passing over one that somebody has locked in psql; their
--   events are locked already (lock_events)
--
-- never oversells: allocated_tickets shrinks by the number of rows that this statement moved, and
--   a purchased ticket is not held. The clock is read after the lock: a hold is over at expires_at,
--   and nobody else expires it meanwhile.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v ticket_ids='{}' -v reservation_ids='{}' -v most=1000 -f sql/expire_tickets.sql

with asked_tickets as (
    select
        tickets.id,
        tickets.event_id,
        tickets.status
    from ticket_allocations as tickets
    where tickets.id = any(:'ticket_ids'::uuid[])
    union all
    select
        tickets.id,
        tickets.event_id,
        tickets.status
    from ticket_allocations as tickets
    where tickets.reservation_id = any(:'reservation_ids'::uuid[])
),

changes as (
    select
        asked.event_id,
        asked.quantity
    from unnest(:'event_ids'::uuid[], :'quantities'::integer[]) as asked (event_id, quantity)
    union all
    -- Who asks for an expired ticket may want to reacquire it.
    select
        asked_tickets.event_id,
        (asked_tickets.status = 'expired')::integer as quantity
    from asked_tickets
),

-- Each event with how many of its holds may expire.
batch_events as (
    select
        event_id,
        greatest(sum(quantity), :'most'::integer / count(*) over ()) as most
    from changes
    group by event_id
),

due as (
    select holds.id
    from batch_events
    cross join lateral (
        select tickets.id
        from ticket_allocations as tickets
        where
            tickets.held_event_id = batch_events.event_id
            and tickets.held_until <= statement_timestamp()
        order by tickets.held_until
        limit batch_events.most
        for update skip locked
    ) as holds
),

-- Holds that the batch is about expire in any case, however many others are due.
asked_due as (
    select tickets.id
    from ticket_allocations as tickets
    where
        tickets.id = any(array(select asked_tickets.id from asked_tickets))
        and (tickets.held_until <= statement_timestamp()) is true
    for update skip locked
),

expired as (
    update ticket_allocations as tickets
    set status = 'expired'
    -- An array and not a join: each ticket is looked up by its id, however many are due.
    where
        tickets.id = any(array(
            select due.id from due
            union
            select asked_due.id from asked_due
        ))
    returning tickets.event_id
),

counted as (
    select
        event_id,
        count(*)::integer as tickets
    from expired
    group by event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets - counted.tickets,
        version = events.version + 1
    from counted
    where
        events.id = any(array(select counted.event_id from counted))
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.tickets
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, expired, last_event
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.tickets as expired,
        'expired' as last_event
    from changed_events
)

select
    event_id,
    tickets
from counted
order by event_id;
