-- reserve_tickets
--
-- Reserves tickets for a batch of requests, in the order in which they arrived. Each request gets
-- all the tickets it asks for, or none.
--
-- parameters: one element of each array for a request, in the order of arrival
--   event_ids          uuid[]
--   quantities         integer[]  at least 1, which the service checks
--   user_fingerprints  text[]     who asks
--   idempotency_keys   text[]     '' for none; the service never puts one key with two quantities
--                                 into one batch
--   hold               interval   how long the tickets are held
--
-- returns: one row for each ticket of a request that has tickets, or one row without a ticket
--   request            from 1, in the order of arrival
--   outcome            granted, replayed, not_found, sale_not_open, sale_closed, limit_reached,
--                      waiting_list_first, not_enough_tickets, tickets_sold_out
--   available_tickets  how many were available to this request, after those before it
--   sale_turns_at      of sale_not_open and sale_closed: when the sale opens, or closed
--   waiting_tickets    how many tickets those who wait in line want
--   opens_in           of sale_not_open: the seconds until then
--   person             integer[]  of limit_reached: max_tickets_per_person, and how many tickets
--                      the person holds and has purchased
--   id, …              the ticket. For a key that has reserved in an earlier batch there is none
--                      here: find_replays reads them.
--
-- locks: nothing beyond the events, which lock_events has locked in an earlier statement of the
--   same transaction. This statement's snapshot and clock are later than the lock, so it sees every
--   ticket that was handed out before, and nobody hands out another until the commit.
--
-- never oversells: allocated_tickets counts what is held or purchased. A request is granted only
--   if what is available under the lock, less what the requests before it got, is enough; and the
--   count grows by the number of rows inserted. If too much were granted, the constraint
--   events_never_oversold would refuse the batch.
--
-- never exceeds a limit: what a person has is counted under the lock, and grows with each of their
--   requests in this batch. An event without a limit reads nothing for it; with a limit it reads
--   all tickets that the person holds or has purchased, in any event.
--
-- What the intermediate values mean:
--
--   available          null  there is no such event
--                      n     n tickets of the event are available before this batch
--   wanted             null  the request's key has reserved in an earlier batch: a replay
--                      0     the sale is not open, or somebody waits in line; or the request's key
--                            occurs earlier in this batch: it has whatever the first one gets, and
--                            is refused if that is
--                      n     the request wants n tickets
--   opening            {n, …}  what is left before this batch: n available tickets, then how many
--                              tickets each person of the batch may still have, at their place
--   place              null  the event has no limit
--                      n     the person of the request has the nth element
--   remaining          {n, …}  what is left before the request, after those before it
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{bob}' -v idempotency_keys='{k}' -v hold=1h -f sql/reserve_tickets.sql

with batch_events as (
    select
        events.id,
        events.total_tickets - events.allocated_tickets as available,
        events.sale_opens_at,
        events.sale_closes_at,
        sale_status_at(
            events.sale_opens_at, events.sale_closes_at, statement_timestamp()
        ) as sale_status,
        case
            when events.hold_seconds is null then statement_timestamp() + :'hold'::interval
            else hold_end(statement_timestamp(), events.hold_seconds)
        end as expires_at,
        events.max_tickets_per_person,
        events.waiting_tickets,
        secrets.secret
    from events
    inner join event_private as secrets on events.id = secrets.event_id
    -- The ids once more, as an array: then both tables are read by index, whatever the planner
    -- expects. The other statements do the same.
    where
        events.id = any(:'event_ids'::uuid[])
        and secrets.event_id = any(:'event_ids'::uuid[])
),

-- Each request with the id that its reservation has or will have. The same key always gives the
-- same id, by which a replay finds its tickets. Without a key the id is new.
requests as (
    select
        arrivals.request,
        arrivals.event_id,
        arrivals.quantity,
        arrivals.user_fingerprint,
        arrivals.idempotency_key,
        seeds.seed,
        batch_events.available,
        batch_events.sale_opens_at,
        batch_events.sale_closes_at,
        batch_events.sale_status,
        batch_events.expires_at,
        batch_events.max_tickets_per_person,
        batch_events.waiting_tickets,
        case arrivals.idempotency_key
            -- 0 is the reservation; its tickets are numbered from 1.
            when '' then derived_id(seeds.seed, arrivals.request, 0)
            else reservation_id_for_key(
                batch_events.secret, arrivals.user_fingerprint, arrivals.idempotency_key
            )
        end as reservation_id
    from unnest(
        :'event_ids'::uuid[],
        :'quantities'::integer[],
        :'user_fingerprints'::text[],
        :'idempotency_keys'::text[]
    ) with ordinality as arrivals (
        event_id, quantity, user_fingerprint, idempotency_key, request
    )
    left join batch_events on arrivals.event_id = batch_events.id
    -- One random id for the whole batch; all other new ids are derived from it.
    cross join time_ordered_uuid() as seeds (seed)
),

-- Which of the keys' reservations exist already, from earlier batches.
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

wants as (
    select
        *,
        case
            when reservation_id in (select replayed.reservation_id from replayed) then null
            when sale_status <> 'open' or waiting_tickets > 0 then 0
            when row_number() over (partition by reservation_id order by request) > 1 then 0
            else quantity
        end as wanted
    from requests
),

limited as (
    select distinct
        event_id,
        user_fingerprint,
        max_tickets_per_person
    from requests
    where max_tickets_per_person is not null
),

-- What each person of the batch has in the events that limit it.
people as (
    select
        limited.event_id,
        limited.user_fingerprint,
        limited.max_tickets_per_person,
        -- The first place is that of the available tickets.
        (1 + row_number() over (partition by limited.event_id))::integer as place,
        had.held,
        had.purchased
    from limited
    cross join lateral (
        select
            count(*) filter (where tickets.status = 'reserved')::integer as held,
            count(*) filter (where tickets.status = 'purchased')::integer as purchased
        from ticket_allocations as tickets
        where
            tickets.user_fingerprint = limited.user_fingerprint
            -- `is true` keeps the planner from the indexes of events and of statuses, by which it
            -- would read all that an event, or anybody, has.
            and (tickets.event_id = limited.event_id) is true
            and (
                status_at(tickets.status, tickets.expires_at, statement_timestamp())
                in ('reserved', 'purchased')
            ) is true
    ) as had
),

allowances as (
    select
        event_id,
        array_agg(max_tickets_per_person - held - purchased order by place) as allowances
    from people
    group by event_id
),

placed as (
    select
        wants.*,
        people.place,
        people.purchased,
        wants.available || coalesce(allowances.allowances, '{}') as opening
    from wants
    left join people
        on wants.event_id = people.event_id and wants.user_fingerprint = people.user_fingerprint
    left join allowances on wants.event_id = allowances.event_id
),

-- The queue for each event. remaining_after goes through it in order: a request that fits what is
-- left takes it, and one that does not fit takes nothing from those behind it. The first in the
-- queue has nobody before it: hence the coalesce.
queue as (
    select
        *,
        coalesce(
            remaining_after(opening, wanted, place) over (
                partition by event_id
                order by request
                rows between unbounded preceding and 1 preceding
            ),
            opening
        ) as remaining
    from placed
),

decided as (
    select
        *,
        case
            when available is null then 'not_found'
            when wanted is null then 'replayed'
            when sale_status = 'upcoming' then 'sale_not_open'
            when sale_status = 'closed' then 'sale_closed'
            when quantity > remaining[place] then 'limit_reached'
            when waiting_tickets > 0 then 'waiting_list_first'
            when wanted between 1 and remaining[1] then 'granted'
            when remaining[1] > 0 then 'not_enough_tickets'
            else 'tickets_sold_out'
        end as outcome
    from queue
),

-- One row for each ticket of each granted request. Its hold begins now: expires_at.
new_tickets as (
    insert into ticket_allocations (
        id, event_id, user_fingerprint, expires_at, reservation_id, position
    )
    select
        derived_id(decided.seed, decided.request, positions.position) as id,
        decided.event_id,
        decided.user_fingerprint,
        decided.expires_at,
        decided.reservation_id,
        positions.position
    from decided
    cross join generate_series(1, decided.wanted) as positions (position)
    where decided.outcome = 'granted'
    returning
        id, event_id, user_fingerprint, status, expires_at, created_at, updated_at,
        reservation_id, position
),

-- How many rows were inserted for each event, and the last buyer, for the ledger.
counted as (
    select
        new_tickets.event_id,
        count(*)::integer as ticket_count,
        (array_agg(decided.user_fingerprint order by decided.request desc))[1] as last_buyer
    from new_tickets
    -- Granted: another request with the same key has the same reservation, and would count its
    -- tickets twice.
    inner join decided
        on new_tickets.reservation_id = decided.reservation_id and decided.outcome = 'granted'
    group by new_tickets.event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets + counted.ticket_count,
        version = events.version + 1
    from counted
    where
        events.id = any(:'event_ids'::uuid[])
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.ticket_count,
        counted.last_buyer
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, reserved, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.ticket_count as reserved,
        'reserved' as last_event,
        actor_name(batch_events.secret, changed_events.last_buyer) as actor
    from changed_events
    inner join batch_events on changed_events.id = batch_events.id
)

select
    decided.request,
    case
        -- By its key it has the tickets of an earlier request of this batch.
        when decided.outcome <> 'granted' and new_tickets.id is not null then 'replayed'
        else decided.outcome
    end as outcome,
    decided.remaining[1] as available_tickets,
    decided.waiting_tickets,
    case decided.outcome
        when 'sale_not_open' then decided.sale_opens_at
        when 'sale_closed' then decided.sale_closes_at
    end as sale_turns_at,
    case
        when decided.outcome = 'sale_not_open'
            then extract(epoch from decided.sale_opens_at - statement_timestamp())
    end::double precision as opens_in,
    case
        when decided.outcome = 'limit_reached'
            then array[
                decided.max_tickets_per_person,
                decided.max_tickets_per_person - decided.purchased
                - decided.remaining[decided.place],
                decided.purchased
            ]
    end as person,
    new_tickets.*
from decided
left join new_tickets on decided.reservation_id = new_tickets.reservation_id
order by decided.request, new_tickets.position;
