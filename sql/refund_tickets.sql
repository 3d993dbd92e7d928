-- refund_tickets
--
-- Takes purchases back, at the organiser's word; each ticket is free again at once.
--
-- parameters, one element for a request, in the order of arrival
--   ticket_ids  uuid[]  the ticket to refund
--
-- returns: request (from 1), outcome, and the ticket when the outcome is granted
--   outcome: granted, not_found, not_purchased, already_refunded
-- locks: the tickets it moves; their events are locked already (lock_events)
-- never oversells: it lowers both counts by the rows it has itself moved out of purchased,
--   and a row leaves purchased once
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -f sql/refund_tickets.sql

with asked as (
    select
        request,
        ticket_id
    from unnest(:'ticket_ids'::uuid[]) with ordinality as asked (ticket_id, request)
),

judged as (
    select
        asked.request,
        asked.ticket_id,
        case
            when tickets.id is null then 'not_found'
            when tickets.status = 'refunded' then 'already_refunded'
            when tickets.status <> 'purchased' then 'not_purchased'
            when row_number() over (partition by asked.ticket_id order by asked.request) > 1
                then 'already_refunded'
            else 'granted'
        end as outcome
    from asked
    left join ticket_allocations as tickets on asked.ticket_id = tickets.id
),

refunded as (
    update ticket_allocations as tickets
    set status = 'refunded'
    from judged
    where
        judged.outcome = 'granted'
        and tickets.id = judged.ticket_id
        and tickets.status::text = 'purchased' -- text: found by its id, not by an index of all
    returning
        judged.request, tickets.id, tickets.event_id, tickets.user_fingerprint,
        tickets.status, tickets.expires_at, tickets.created_at, tickets.updated_at,
        tickets.reservation_id, tickets.position
),

counted as (
    select
        event_id,
        count(*)::integer as tickets
    from refunded
    group by event_id
),

freed as (
    update events
    set
        allocated_tickets = events.allocated_tickets - counted.tickets,
        purchased_tickets = events.purchased_tickets - counted.tickets,
        version = events.version + 1
    from counted
    where events.id = counted.event_id
    returning events as event, counted.tickets
),

recorded as (
    insert into event_ledger
    select entry.*
    from freed
    cross join lateral ledger_entry(freed.event, 'refunded', freed.tickets, null) as entry
)

select
    judged.request,
    judged.outcome,
    refunded.id,
    refunded.event_id,
    refunded.user_fingerprint,
    refunded.status,
    refunded.expires_at,
    refunded.created_at,
    refunded.updated_at,
    refunded.reservation_id,
    refunded.position
from judged
left join refunded on judged.request = refunded.request
order by judged.request;
