-- reacquire_tickets
--
-- Pays for tickets although their holds may have expired, for a batch of requests, each about one
-- ticket or one reservation: for buyers whose money has been taken already. Expired tickets are
-- reacquired, all that a request is about or none, if as many are available and nobody waits in
-- line. Held tickets are paid for as in pay_tickets. The service never puts two requests about the
-- same ticket into one batch.
--
-- parameters: one element of each array for a request, in the order of arrival
--   ticket_ids         uuid[]  the ticket to pay for; null in a request about a reservation
--   reservation_ids    uuid[]  the reservation to pay for; null in a request about a ticket
--   user_fingerprints  text[]  who pays
--
-- returns: for a granted request one row for each ticket that it is about and that its sender owns;
--   for another one row without a ticket
--   request             from 1, in the order of arrival
--   outcome             granted, not_found, wrong_fingerprint, limit_reached, hold_expired,
--                       already_purchased, already_cancelled, already_refunded; busy if its tickets
--                       were changed meanwhile by hand, without lock_events
--   deciding_ticket_id  the ticket that decided the outcome
--   tickets_moved       how many tickets this request paid for
--   reacquired          how many of them had expired
--   available_tickets   how many were available to this request, after those before it
--   waiting_tickets     how many tickets those who wait in line want
--   person              integer[]  of limit_reached: max_tickets_per_person, and how many tickets
--                       the person holds and has purchased
--   id, …               the ticket, also one that was passed over, as it is now
--
-- locks: the tickets that it pays for; their events are locked already (lock_events)
--
-- never oversells: an expired ticket is reacquired only if one is available under the lock, less
--   those that the requests before it got, and allocated_tickets grows by the number of expired
--   rows that this statement moved. A hold that has ended but is still reserved is simply paid for:
--   expire_tickets has just expired what was due, so it ended since, and its ticket is allocated.
--
-- never exceeds a limit: as in reserve_tickets. What is reacquired counts like a new reservation;
--   what is held counts already.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -v reservation_ids='{null}' -v user_fingerprints='{alice}' -f sql/reacquire_tickets.sql

with requests as (
    select
        request,
        ticket_id,
        reservation_id,
        user_fingerprint
    from unnest(
        :'ticket_ids'::uuid[], :'reservation_ids'::uuid[], :'user_fingerprints'::text[]
    ) with ordinality as arrivals (ticket_id, reservation_id, user_fingerprint, request)
),

-- Every ticket that a request is about.
asked as (
    select
        request,
        user_fingerprint,
        ticket_id
    from requests
    where ticket_id is not null
    union all
    select
        requests.request,
        requests.user_fingerprint,
        tickets.id as ticket_id
    from requests
    inner join ticket_allocations as tickets on requests.reservation_id = tickets.reservation_id
    where tickets.reservation_id = any(:'reservation_ids'::uuid[])
),

-- The same tickets with what they are.
judged as (
    select
        asked.request,
        tickets.user_fingerprint = asked.user_fingerprint as is_owner,
        tickets.id,
        tickets.event_id,
        tickets.user_fingerprint,
        tickets.status,
        tickets.expires_at,
        tickets.created_at,
        tickets.updated_at,
        tickets.reservation_id,
        tickets.position
    from asked
    inner join ticket_allocations as tickets on asked.ticket_id = tickets.id
    -- The ids once more, as an array: then each is looked up by index, whatever the planner
    -- expects.
    where tickets.id = any(array(select asked.ticket_id from asked))
),

-- One ticket decides each request. In this order: the sender's own; an expired one, then a held
-- one, then a purchase, then any other; the first by position.
deciding as (
    select distinct on (requests.request)
        requests.request,
        requests.user_fingerprint,
        judged.id as deciding_ticket_id,
        judged.event_id,
        judged.status,
        judged.is_owner
    from requests
    left join judged on requests.request = judged.request
    order by
        requests.request,
        not judged.is_owner,
        array_position('{expired, reserved, purchased}'::allocation_status[], judged.status),
        judged.position
),

-- How many expired tickets each request wants back.
wants as (
    select
        deciding.*,
        (
            select count(*)
            from judged
            where
                judged.request = deciding.request
                and judged.is_owner
                and judged.status = 'expired'
        )::integer as wanted
    from deciding
),

batch_events as (
    select
        events.id,
        events.total_tickets - events.allocated_tickets as available,
        events.max_tickets_per_person,
        events.waiting_tickets,
        secrets.secret
    from events
    inner join event_private as secrets on events.id = secrets.event_id
    where
        events.id = any(array(select wants.event_id from wants))
        and secrets.event_id = any(array(select wants.event_id from wants))
),

-- The same as in reserve_tickets, from here to `queue`: what each person of the batch has in the
-- events that limit it, and what is left before each request.
limited as (
    select distinct
        wants.event_id,
        wants.user_fingerprint,
        batch_events.max_tickets_per_person
    from wants
    inner join batch_events on wants.event_id = batch_events.id
    where batch_events.max_tickets_per_person is not null and wants.wanted > 0
),

people as (
    select
        limited.event_id,
        limited.user_fingerprint,
        limited.max_tickets_per_person,
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
            and (tickets.event_id = limited.event_id) is true
            and (
                status_at(tickets.status, tickets.expires_at, statement_timestamp())
                in ('reserved', 'purchased')
                -- Held until the batch pays for it, also if its hold has ended since
                -- expire_tickets.
                or tickets.status = 'reserved'
                and tickets.id = any(array(select judged.id from judged))
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
        people.max_tickets_per_person,
        people.purchased,
        batch_events.waiting_tickets,
        batch_events.available || coalesce(allowances.allowances, '{}') as opening,
        -- While somebody waits in line, nothing is reacquired.
        case when batch_events.waiting_tickets = 0 then wants.wanted else 0 end as claimed
    from wants
    left join batch_events on wants.event_id = batch_events.id
    left join allowances on wants.event_id = allowances.event_id
    left join people
        on wants.event_id = people.event_id and wants.user_fingerprint = people.user_fingerprint
),

queue as (
    select
        *,
        coalesce(
            remaining_after(opening, claimed, place) over (
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
            when deciding_ticket_id is null then 'not_found'
            when not is_owner then 'wrong_fingerprint'
            when status = 'expired' and wanted > remaining[place] then 'limit_reached'
            when status = 'expired' and (wanted > remaining[1] or waiting_tickets > 0)
                then 'hold_expired'
            when status in ('expired', 'reserved') then 'granted'
            when status = 'purchased' then 'already_purchased'
            when status = 'refunded' then 'already_refunded'
            else 'already_cancelled'
        end as outcome
    from queue
),

-- The held and the expired tickets of the granted requests, each for one request.
payable as (
    select distinct on (judged.id)
        judged.id,
        judged.request,
        judged.status
    from decided
    inner join judged on decided.request = judged.request
    where
        decided.outcome = 'granted'
        and judged.is_owner
        and judged.status in ('reserved', 'expired')
    order by judged.id, judged.request
),

paid as (
    update ticket_allocations as tickets
    set
        status = 'purchased',
        expires_at = null
    from payable
    where
        tickets.id = any(array(select payable.id from payable))
        and tickets.id = payable.id
        -- Once more: if a row was changed by hand since `judged` read it, the update checks its
        -- newest version. `is true` keeps the planner from looking up all that is reserved.
        and (tickets.status = payable.status) is true
    returning
        tickets.id, tickets.event_id, tickets.user_fingerprint, tickets.status, tickets.updated_at,
        payable.request, payable.status as status_before
),

counted as (
    select
        event_id,
        count(*)::integer as ticket_count,
        count(*) filter (where status_before = 'expired')::integer as reacquired,
        (array_agg(user_fingerprint order by request desc))[1] as last_buyer
    from paid
    group by event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets + counted.reacquired,
        purchased_tickets = events.purchased_tickets + counted.ticket_count,
        version = events.version + 1
    from counted
    where
        events.id = any(array(select counted.event_id from counted))
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.ticket_count,
        counted.reacquired, counted.last_buyer
),

-- A reacquired ticket is reserved and purchased in one version.
recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, reserved, purchased, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.reacquired as reserved,
        changed_events.ticket_count as purchased,
        'purchased' as last_event,
        actor_name(batch_events.secret, changed_events.last_buyer) as actor
    from changed_events
    inner join batch_events on changed_events.id = batch_events.id
),

-- How many tickets each request got.
moved as (
    select
        request,
        count(*)::integer as ticket_count,
        count(*) filter (where status_before = 'expired')::integer as reacquired
    from paid
    group by request
),

outcomes as (
    select
        decided.request,
        decided.deciding_ticket_id,
        moved.ticket_count as tickets_moved,
        moved.reacquired,
        decided.remaining[1] as available_tickets,
        decided.waiting_tickets,
        case
            when decided.outcome = 'limit_reached'
                then array[
                    decided.max_tickets_per_person,
                    decided.max_tickets_per_person - decided.purchased
                    - decided.remaining[decided.place],
                    decided.purchased
                ]
        end as person,
        case
            when decided.outcome = 'granted' and moved.ticket_count is null then 'busy'
            else decided.outcome
        end as outcome
    from decided
    left join moved on decided.request = moved.request
)

select
    outcomes.request,
    outcomes.outcome,
    outcomes.deciding_ticket_id,
    outcomes.tickets_moved,
    outcomes.reacquired,
    outcomes.available_tickets,
    outcomes.waiting_tickets,
    outcomes.person,
    judged.id,
    judged.event_id,
    judged.user_fingerprint,
    coalesce(paid.status, judged.status) as status,
    -- A purchase does not expire.
    case when paid.id is null then judged.expires_at end as expires_at,
    judged.created_at,
    coalesce(paid.updated_at, judged.updated_at) as updated_at,
    judged.reservation_id,
    judged.position
from outcomes
left join judged
    on
        outcomes.request = judged.request
        and outcomes.outcome = 'granted'
        and judged.is_owner
left join paid on judged.id = paid.id
order by outcomes.request, judged.position;
