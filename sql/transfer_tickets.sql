-- transfer_tickets
--
-- Gives tickets to a new owner, for a batch of requests, each about one ticket. Only the owner can
-- give a ticket away, while it is held or when it is purchased. It stays in its reservation, and a
-- hold ends when it would have ended. The service never puts two requests about the same ticket
-- into one batch.
--
-- parameters: one element of each array for a request, in the order of arrival
--   ticket_ids             uuid[]
--   user_fingerprints      text[]  who gives
--   new_user_fingerprints  text[]  who gets
--
-- returns: one row for each request
--   request             from 1, in the order of arrival
--   outcome             granted, not_found, wrong_fingerprint, hold_expired, already_cancelled,
--                       already_refunded, limit_reached; busy if the ticket was changed meanwhile
--                       by hand, without lock_events
--   person              integer[]  of limit_reached: max_tickets_per_person, and how many tickets
--                       the new owner holds and has purchased
--   id, …               of granted: the ticket as it is now
--
-- locks: the tickets that it moves; their events are locked already (lock_events)
--
-- never oversells: no count changes, because the ticket was allocated before and stays so.
--
-- never exceeds a limit: what each person has is counted under the lock. allowances_after goes
--   through the requests in order: each takes one from what the new owner may still have, and gives
--   one back to the old owner.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -v user_fingerprints='{alice}' -v new_user_fingerprints='{bob}' -f sql/transfer_tickets.sql

with requests as (
    select
        request,
        ticket_id,
        user_fingerprint,
        new_user_fingerprint
    from unnest(
        :'ticket_ids'::uuid[], :'user_fingerprints'::text[], :'new_user_fingerprints'::text[]
    ) with ordinality as arrivals (ticket_id, user_fingerprint, new_user_fingerprint, request)
),

judged as (
    select
        requests.request,
        requests.ticket_id,
        requests.user_fingerprint,
        requests.new_user_fingerprint,
        tickets.event_id,
        case
            when tickets.id is null then 'not_found'
            when tickets.user_fingerprint <> requests.user_fingerprint then 'wrong_fingerprint'
            when tickets.status = 'purchased' then 'granted'
            -- The clock is later than the lock.
            else hold_outcome(tickets.status, tickets.expires_at, statement_timestamp())
        end as outcome
    from requests
    left join ticket_allocations as tickets
        on requests.ticket_id = tickets.id
        -- The ids once more, as an array: then each is looked up by index, whatever the planner
        -- expects.
        and tickets.id = any(:'ticket_ids'::uuid[])
),

batch_events as (
    select
        events.id,
        events.max_tickets_per_person,
        secrets.secret
    from events
    inner join event_private as secrets on events.id = secrets.event_id
    where
        events.id = any(array(select judged.event_id from judged))
        and secrets.event_id = any(array(select judged.event_id from judged))
),

-- Who gives or gets a ticket of an event that has a limit.
limited as (
    select
        judged.event_id,
        judged.user_fingerprint,
        batch_events.max_tickets_per_person
    from judged
    inner join batch_events on judged.event_id = batch_events.id
    where judged.outcome = 'granted' and batch_events.max_tickets_per_person is not null
    union
    select
        judged.event_id,
        judged.new_user_fingerprint as user_fingerprint,
        batch_events.max_tickets_per_person
    from judged
    inner join batch_events on judged.event_id = batch_events.id
    where judged.outcome = 'granted' and batch_events.max_tickets_per_person is not null
),

-- What each of them has, and at which place of `opening`.
people as (
    select
        limited.event_id,
        limited.user_fingerprint,
        limited.max_tickets_per_person,
        row_number() over (partition by limited.event_id)::integer as place,
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
            ) is true
    ) as had
),

allowances as (
    select
        event_id,
        array_agg(max_tickets_per_person - held - purchased order by place) as opening
    from people
    group by event_id
),

placed as (
    select
        judged.*,
        givers.place as giver,
        takers.place as taker,
        takers.max_tickets_per_person,
        takers.purchased,
        allowances.opening
    from judged
    left join allowances on judged.event_id = allowances.event_id
    left join people as givers
        on judged.event_id = givers.event_id
        and judged.user_fingerprint = givers.user_fingerprint
        and judged.outcome = 'granted'
    left join people as takers
        on judged.event_id = takers.event_id
        and judged.new_user_fingerprint = takers.user_fingerprint
        and judged.outcome = 'granted'
),

-- What each person of the batch may still have before each request. The first has nobody before it:
-- hence the coalesce.
queue as (
    select
        *,
        coalesce(
            allowances_after(opening, giver, taker) over (
                partition by event_id
                order by request
                rows between unbounded preceding and 1 preceding
            ),
            opening
        ) as allowances
    from placed
),

decided as (
    select
        request,
        ticket_id,
        event_id,
        user_fingerprint,
        new_user_fingerprint,
        max_tickets_per_person,
        purchased,
        allowances[taker] as allowance,
        case
            when outcome = 'granted' and allowances[taker] < 1 then 'limit_reached'
            else outcome
        end as outcome
    from queue
),

-- The tickets that change their owner, each for one request.
passing as (
    select distinct on (ticket_id)
        ticket_id,
        request,
        user_fingerprint,
        new_user_fingerprint
    from decided
    where outcome = 'granted'
    order by ticket_id, request
),

transferred as (
    update ticket_allocations as tickets
    set user_fingerprint = passing.new_user_fingerprint
    from passing
    where
        tickets.id = any(array(select passing.ticket_id from passing))
        and tickets.id = passing.ticket_id
        -- Once more: if a row was changed by hand since `judged` read it, the update checks its
        -- newest version. `is true` keeps the planner from other indexes.
        and (tickets.user_fingerprint = passing.user_fingerprint) is true
        and (tickets.status in ('reserved', 'purchased')) is true
    returning
        passing.request, tickets.id, tickets.event_id, tickets.user_fingerprint, tickets.status,
        tickets.expires_at, tickets.created_at, tickets.updated_at, tickets.reservation_id,
        tickets.position
),

counted as (
    select
        transferred.event_id,
        (array_agg(passing.user_fingerprint order by passing.request desc))[1] as last_giver
    from transferred
    inner join passing on transferred.request = passing.request
    group by transferred.event_id
),

changed_events as (
    update events
    set version = events.version + 1
    from counted
    where
        events.id = any(array(select counted.event_id from counted))
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.last_giver
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        'updated' as last_event,
        actor_name(batch_events.secret, changed_events.last_giver) as actor
    from changed_events
    inner join batch_events on changed_events.id = batch_events.id
)

select
    decided.request,
    case
        when decided.outcome = 'granted' and transferred.id is null then 'busy'
        else decided.outcome
    end as outcome,
    case
        when decided.outcome = 'limit_reached'
            then array[
                decided.max_tickets_per_person,
                decided.max_tickets_per_person - decided.purchased - decided.allowance,
                decided.purchased
            ]
    end as person,
    transferred.id,
    transferred.event_id,
    transferred.user_fingerprint,
    transferred.status,
    transferred.expires_at,
    transferred.created_at,
    transferred.updated_at,
    transferred.reservation_id,
    transferred.position
from decided
left join transferred on decided.request = transferred.request
order by decided.request;
