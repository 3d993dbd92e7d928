-- reserve_tickets
--
-- Reserves for a batch: first come first served, whole or not at all.
--
-- parameters: one element of each array for a request
--   event_ids          uuid[]
--   quantities         integer[]
--   user_fingerprints  text[]
--   idempotency_keys   text[]  '' for none
--   hold               interval
-- returns: request, outcome (granted, replayed, not_found, not_enough_tickets,
--   tickets_sold_out), available_tickets, its tickets; repeats: find_repeats
-- locks: nothing more
-- never oversells: tickets_left hands out what is left under the lock, the
--   count grows by the rows inserted; last events_never_oversold
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{bob}' -v idempotency_keys='{k}' -v hold=1h -f sql/reserve_tickets.sql

with named as (
    select
        asked.*,
        drawn.drawn,
        events.total_tickets - events.allocated_tickets as available,
        case asked.key
            when '' then drawn_id(drawn.drawn, asked.request, 0)
            else reservation_id_for_key(mine.secret, asked.user_fingerprint, asked.key)
        end as reservation_id
    from unnest(
        :'event_ids'::uuid[], :'quantities'::integer[],
        :'user_fingerprints'::text[], :'idempotency_keys'::text[]
    ) with ordinality as asked (event_id, quantity, user_fingerprint, key, request)
    left join events on asked.event_id = events.id
    left join event_private as mine on asked.event_id = mine.event_id
    cross join time_ordered_uuid() as drawn
),

asked as (
    select
        *,
        -- A repeat wants nothing.
        case
            when key <> '' and (
                select true from ticket_allocations as old
                where old.reservation_id = named.reservation_id limit 1
            ) then null
            when row_number() over (partition by reservation_id order by request) > 1 then 0
            else quantity
        end as wanted
    from named
),

line as (
    select
        *,
        coalesce(tickets_left(available, wanted) over earlier, available) as rest
    from asked
    window earlier as (
        partition by event_id order by request rows between unbounded preceding and 1 preceding
    )
),

reserved as (
    insert into ticket_allocations (
        id, event_id, user_fingerprint, expires_at, reservation_id, position
    )
    select
        drawn_id(line.drawn, line.request, nth.position) as id,
        line.event_id,
        line.user_fingerprint,
        statement_timestamp() + :'hold'::interval as expires_at,
        line.reservation_id,
        nth.position
    from line
    cross join generate_series(1, line.wanted) as nth (position)
    where line.wanted <= line.rest
    returning
        id, event_id, user_fingerprint, status, expires_at, created_at, updated_at,
        reservation_id, position
),

counted as (
    select
        reserved.event_id,
        count(*)::integer as tickets,
        (array_agg(line.user_fingerprint order by line.request desc))[1] as buyer
    from reserved
    inner join line on reserved.reservation_id = line.reservation_id and line.wanted > 0
    group by reserved.event_id
),

allocated as (
    update events
    set allocated_tickets = allocated_tickets + tickets, version = version + 1
    from counted
    where id = event_id
    returning events as event, tickets, buyer
),

recorded as (
    insert into event_ledger
    select entry.*
    from allocated as now
    cross join lateral ledger_entry(now.event, 'reserved', now.tickets, now.buyer) as entry
)

select
    line.request,
    case
        when line.available is null then 'not_found'
        when line.wanted between 1 and line.rest then 'granted'
        when line.wanted is null or reserved.id is not null then 'replayed'
        when line.rest > 0 then 'not_enough_tickets'
        else 'tickets_sold_out'
    end as outcome,
    line.rest as available_tickets,
    reserved.*
from line
left join reserved on line.reservation_id = reserved.reservation_id
order by line.request, reserved.position;
