-- reserve_tickets
--
-- Reserves for a batch of requests: first come, first served, each whole or not at all.
--
-- parameters, arrays: an element for each request, in order of arrival
--   event_ids          uuid[]
--   quantities         integer[]
--   user_fingerprints  text[]
--   idempotency_keys   text[]     '' for none
--   hold               interval
-- returns: request (from 1), outcome, available_tickets before it, its tickets
--   outcome: granted, replayed (see find_repeats), not_found, not_enough_tickets,
--   tickets_sold_out
-- locks: nothing more than lock_events
-- never oversells: tickets_left hands out in turn what is available under the lock, the
--   count grows by the rows inserted; behind it events_never_oversold
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{alice}' -v idempotency_keys='{""}' -v hold='15 min' \
--   -f sql/reserve_tickets.sql

with asked as (
    select
        asked.*,
        named.reservation_id,
        events.total_tickets - events.allocated_tickets as available,
        -- A repeat wants nothing: its key is known, or came before it in this batch.
        case
            when asked.key <> '' and (
                select true from ticket_allocations as old
                where old.reservation_id = named.reservation_id limit 1
            ) then null
            when row_number() over same_key > 1 then 0
            else asked.quantity
        end as wanted
    from unnest(
        :'event_ids'::uuid[], :'quantities'::integer[],
        :'user_fingerprints'::text[], :'idempotency_keys'::text[]
    ) with ordinality as asked (event_id, quantity, user_fingerprint, key, request)
    left join events on asked.event_id = events.id
    left join event_private as mine on asked.event_id = mine.event_id
    cross join lateral coalesce(
        reservation_id_for_key(mine.secret, asked.user_fingerprint, nullif(asked.key, '')),
        time_ordered_uuid()
    ) as named (reservation_id)
    window same_key as (partition by named.reservation_id order by asked.request)
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
        event_id, user_fingerprint, expires_at, reservation_id, position
    )
    select
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
    set allocated_tickets = allocated_tickets + tickets
    from counted
    where id = event_id
),

drafted as (
    update event_private as draft
    set kind = 'reserved', actor = actor_name(secret, buyer), reserved = reserved + tickets
    from counted
    where draft.event_id = counted.event_id
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
