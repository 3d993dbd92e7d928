-- refund_tickets
--
-- Refunds purchases, for a batch of requests of the organizer, each about one ticket or one
-- reservation. Refunding a reservation refunds all its purchased tickets and passes over the
-- others. The tickets are available again at once; or, without resale, the event has so many fewer.
--
-- parameters: one element of each array for a request, in the order of arrival
--   ticket_ids       uuid[]     the ticket to refund; null in a request about a reservation
--   reservation_ids  uuid[]     the reservation to refund; null in a request about a ticket
--   resale           boolean[]  false: the tickets do not come back on sale
--
-- returns: for a granted request one row for each ticket that it is about; for another one row
--   without a ticket
--   request            from 1, in the order of arrival
--   outcome            granted, not_found, not_purchased, already_refunded;
--                      capacity_below_allocated if the event would be left with no ticket at all;
--                      busy if its tickets were changed meanwhile by hand, without lock_events, or
--                      if an earlier request of the batch for the same ticket was refused
--   allocated_tickets  of the event, before this batch
--   tickets_moved      how many tickets this request itself refunded
--   id, …              the ticket, also one that was passed over, as it is now
--
-- locks: the tickets that it refunds; their events are locked already (lock_events)
--
-- never oversells: both counts shrink by the number of rows that this statement moved out of
--   purchased, and a row leaves purchased once; the total shrinks by no more than they do.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -v reservation_ids='{null}' -v resale='{true}' -f sql/refund_tickets.sql

with requests as (
    select
        request,
        ticket_id,
        reservation_id,
        resale
    from unnest(
        :'ticket_ids'::uuid[], :'reservation_ids'::uuid[], :'resale'::boolean[]
    ) with ordinality as arrivals (ticket_id, reservation_id, resale, request)
),

-- Every ticket that a request is about.
asked as (
    select
        request,
        ticket_id
    from requests
    where ticket_id is not null
    union all
    select
        requests.request,
        tickets.id as ticket_id
    from requests
    inner join ticket_allocations as tickets on requests.reservation_id = tickets.reservation_id
    where tickets.reservation_id = any(:'reservation_ids'::uuid[])
),

-- The same tickets with what they are. Of several requests for one ticket the first claims it.
judged as (
    select
        asked.request,
        tickets.status = 'purchased' as is_purchased,
        tickets.status = 'purchased'
        and row_number() over (partition by tickets.id order by asked.request) = 1 as is_claimed,
        first_value(asked.request) over (
            partition by tickets.id order by asked.request
        ) as claimed_by,
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

summed as (
    select
        request,
        (array_agg(event_id))[1] as event_id,
        count(*) filter (where is_claimed)::integer as claims,
        bool_or(status = 'refunded') as has_refunded,
        min(claimed_by) filter (where is_purchased and not is_claimed) as rival
    from judged
    group by request
),

-- What each request takes off the total, and how much the batch may take off at most: an event
-- keeps one ticket.
placed as (
    select
        summed.request,
        summed.event_id,
        summed.claims,
        summed.has_refunded,
        summed.rival,
        events.allocated_tickets,
        array[events.total_tickets - 1] as opening,
        case when requests.resale then 0 else summed.claims end as removed
    from summed
    inner join requests on summed.request = requests.request
    inner join events on summed.event_id = events.id
    where events.id = any(array(select summed.event_id from summed))
),

-- In the order of arrival, as in reserve_tickets.
queue as (
    select
        *,
        coalesce(
            remaining_after(opening, removed, null::integer) over (
                partition by event_id
                order by request
                rows between unbounded preceding and 1 preceding
            ),
            opening
        ) as remaining
    from placed
),

granted as (
    select
        request,
        event_id,
        removed
    from queue
    where claims > 0 and removed <= remaining[1]
),

refunded as (
    update ticket_allocations as tickets
    set status = 'refunded'
    where
        tickets.id = any(array(
            select judged.id
            from granted
            inner join judged on granted.request = judged.request
            where judged.is_claimed
        ))
        -- Once more: if a row was changed by hand since `judged` read it, the update checks its
        -- newest version. `is true` keeps the planner from looking up all that is purchased.
        and (tickets.status = 'purchased') is true
    returning tickets.id, tickets.event_id, tickets.status, tickets.updated_at
),

-- How many tickets each request refunded.
moved as (
    select
        judged.request,
        count(*)::integer as ticket_count
    from refunded
    inner join judged on refunded.id = judged.id and judged.is_claimed
    group by judged.request
),

counted as (
    select
        granted.event_id,
        sum(moved.ticket_count)::integer as ticket_count,
        sum(case when granted.removed > 0 then moved.ticket_count else 0 end)::integer as removed
    from granted
    inner join moved on granted.request = moved.request
    group by granted.event_id
),

changed_events as (
    update events
    set
        total_tickets = events.total_tickets - counted.removed,
        allocated_tickets = events.allocated_tickets - counted.ticket_count,
        purchased_tickets = events.purchased_tickets - counted.ticket_count,
        version = events.version + 1,
        revision = events.revision + case when counted.removed > 0 then 1 else 0 end
    from counted
    where
        events.id = any(array(select counted.event_id from counted))
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.ticket_count
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, refunded, last_event
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.ticket_count as refunded,
        'refunded' as last_event
    from changed_events
),

outcomes as (
    select
        requests.request,
        queue.allocated_tickets,
        moved.ticket_count as tickets_moved,
        case
            when queue.request is null then 'not_found'
            when moved.ticket_count > 0 then 'granted'
            when granted.request is not null then 'busy'
            when queue.claims > 0 then 'capacity_below_allocated'
            when queue.rival in (select moved.request from moved) then 'already_refunded'
            when queue.rival is not null then 'busy'
            when queue.has_refunded then 'already_refunded'
            else 'not_purchased'
        end as outcome
    from requests
    left join queue on requests.request = queue.request
    left join granted on requests.request = granted.request
    left join moved on requests.request = moved.request
)

select
    outcomes.request,
    outcomes.outcome,
    outcomes.allocated_tickets,
    outcomes.tickets_moved,
    judged.id,
    judged.event_id,
    judged.user_fingerprint,
    coalesce(
        refunded.status, status_at(judged.status, judged.expires_at, statement_timestamp())
    ) as status,
    judged.expires_at,
    judged.created_at,
    coalesce(refunded.updated_at, judged.updated_at) as updated_at,
    judged.reservation_id,
    judged.position
from outcomes
left join judged on outcomes.request = judged.request and outcomes.outcome = 'granted'
left join refunded on judged.id = refunded.id
order by outcomes.request, judged.position;
