-- reserve_tickets
--
-- Reserves tickets for a batch of requests, in the order in which they arrived. Each request gets
-- all the tickets it asks for, or none.
--
-- parameters: one element of each array for a request, in the order of arrival
--   event_ids          uuid[]
--   quantities         integer[]
--   user_fingerprints  text[]
--   idempotency_keys   text[]    '' for none
--   hold               interval  how long the tickets are held
--
-- returns: for each request one row for each ticket that it reserved, or one row without a ticket
--   request            from 1, in the order of arrival
--   outcome            granted, replayed, not_found, not_enough_tickets, tickets_sold_out
--   available_tickets  how many were available to this request, after those before it
--   id, …              the ticket. find_replays reads those of a replayed request.
--
-- locks: no further row. lock_events has locked the events, so nobody else changes what is read
--   here until the commit.
--
-- never oversells: a request is granted only what the window in `line` finds available under the
--   lock, after the requests before it, and allocated_tickets grows by the number of rows inserted.
--   If both were wrong, the constraint events_never_oversold refuses the whole batch.
--
-- What the intermediate values mean:
--
--   wanted     null  its key has reserved before this batch: a replay, which takes nothing
--              0     an earlier request of this batch has the same key: the same, a replay
--              n     it wants n tickets
--   available  null  there is no such event
--              n     of the event, before this batch
--   available_tickets, as above: what `wanted` is compared with
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{bob}' -v idempotency_keys='{k}' -v hold=1h -f sql/reserve_tickets.sql

with locked_events as (
    select
        events.id,
        events.total_tickets - events.allocated_tickets as available,
        secrets.secret
    from events
    inner join event_private as secrets on events.id = secrets.event_id
    -- Not only by the join: then both tables are read by index, whatever the planner expects.
    where
        events.id = any(:'event_ids'::uuid[])
        and secrets.event_id = any(:'event_ids'::uuid[])
),

-- Each request with the id that its reservation has or will have. A key always gives the same
-- id, so that a replay finds its tickets by it; without a key it is a new one.
requests as (
    select
        requests.request,
        requests.event_id,
        requests.quantity,
        requests.user_fingerprint,
        requests.idempotency_key,
        seeds.seed,
        locked_events.available,
        locked_events.secret,
        case requests.idempotency_key
            when '' then derived_id(seeds.seed, requests.request, 0)
            else reservation_id_for_key(
                locked_events.secret, requests.user_fingerprint, requests.idempotency_key
            )
        end as reservation_id
    from unnest(
        :'event_ids'::uuid[],
        :'quantities'::integer[],
        :'user_fingerprints'::text[],
        :'idempotency_keys'::text[]
    ) with ordinality as requests (
        event_id, quantity, user_fingerprint, idempotency_key, request
    )
    left join locked_events on requests.event_id = locked_events.id
    -- One random id for the whole batch, from which all others are derived.
    cross join time_ordered_uuid() as seeds (seed)
),

-- The reservations that keys of this batch have made before it.
replayed as (
    select distinct reservation_id
    from ticket_allocations
    where
        reservation_id = any(array(
            select requests.reservation_id
            from requests
            where requests.idempotency_key <> ''
        ))
),

-- How many tickets each request still wants: a key reserves once.
wants as (
    select
        *,
        case
            when reservation_id in (select replayed.reservation_id from replayed) then null
            when row_number() over (partition by reservation_id order by request) > 1 then 0
            else quantity
        end as wanted
    from requests
),

-- The line in front of each event: what is available to each request after those before it.
line as (
    select
        *,
        coalesce(
            available_after(available, wanted) over (
                partition by event_id
                order by request
                rows between unbounded preceding and 1 preceding
            ),
            available
        ) as available_tickets
    from wants
),

-- One row for each ticket of each request that gets what it wants. The hold begins now: the clock
-- of this statement is read after the lock was granted.
reserved as (
    insert into ticket_allocations (
        id, event_id, user_fingerprint, expires_at, reservation_id, position
    )
    select
        derived_id(line.seed, line.request, positions.position) as id,
        line.event_id,
        line.user_fingerprint,
        statement_timestamp() + :'hold'::interval as expires_at,
        line.reservation_id,
        positions.position
    from line
    cross join generate_series(1, line.wanted) as positions (position)
    where line.wanted <= line.available_tickets
    returning
        id, event_id, user_fingerprint, status, expires_at, created_at, updated_at,
        reservation_id, position
),

-- What was inserted for each event, and the last buyer, for the ledger.
counted as (
    select
        reserved.event_id,
        count(*)::integer as tickets,
        (array_agg(line.user_fingerprint order by line.request desc))[1] as last_buyer
    from reserved
    inner join line on reserved.reservation_id = line.reservation_id and line.wanted > 0
    group by reserved.event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets + counted.tickets,
        version = events.version + 1
    from counted
    where
        events.id = any(:'event_ids'::uuid[])
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, counted.tickets, counted.last_buyer
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        reserved, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.tickets as reserved,
        'reserved' as last_event,
        actor_name(locked_events.secret, changed_events.last_buyer) as actor
    from changed_events
    inner join locked_events on changed_events.id = locked_events.id
)

select
    line.request,
    case
        when line.available is null then 'not_found'
        when line.wanted between 1 and line.available_tickets then 'granted'
        -- Of two requests with the same key, the second has the tickets that the first reserved.
        when line.wanted is null or reserved.id is not null then 'replayed'
        when line.available_tickets > 0 then 'not_enough_tickets'
        else 'tickets_sold_out'
    end as outcome,
    line.available_tickets,
    reserved.*
from line
left join reserved on line.reservation_id = reserved.reservation_id
order by line.request, reserved.position;
