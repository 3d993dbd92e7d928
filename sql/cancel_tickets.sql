-- cancel_tickets
--
-- Gives holds back, each at the word of its owner; the ticket is free at once.
--
-- parameters, one element of each array for a request, in the order of arrival
--   ticket_ids         uuid[]  the ticket to give back
--   user_fingerprints  text[]  who gives it back
--
-- returns: request (from 1), outcome, and the ticket when the outcome is granted
--   outcome: granted, not_found, wrong_fingerprint, hold_expired, already_purchased,
--   already_cancelled, already_refunded
-- locks: the tickets it moves; their events are locked already (lock_events)
-- never oversells: it lowers allocated_tickets by the rows it has itself moved out of
--   reserved, and a row leaves reserved once. Twenty cancels of one ticket free one.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -v user_fingerprints='{alice}' -f sql/cancel_tickets.sql

with asked as (
    select
        request,
        ticket_id,
        user_fingerprint
    from unnest(:'ticket_ids'::uuid[], :'user_fingerprints'::text[])
    with ordinality as asked (ticket_id, user_fingerprint, request)
),

judged as (
    select
        asked.request,
        asked.ticket_id,
        hold_verdict(tickets, asked.user_fingerprint) as verdict
    from asked
    left join ticket_allocations as tickets on asked.ticket_id = tickets.id
),

ranked as (
    select
        request,
        ticket_id,
        case
            when verdict <> 'granted' then verdict
            when row_number() over (partition by ticket_id, verdict order by request) = 1
                then 'granted'
            else 'already_cancelled'
        end as outcome
    from judged
),

cancelled as (
    update ticket_allocations as tickets
    set status = 'user_cancelled'
    from ranked
    where
        ranked.outcome = 'granted'
        and tickets.id = ranked.ticket_id
        and tickets.status::text = 'reserved' -- text: found by its id, not by an index of all
    returning
        ranked.request, tickets.id, tickets.event_id, tickets.user_fingerprint,
        tickets.status, tickets.expires_at, tickets.created_at, tickets.updated_at,
        tickets.reservation_id, tickets.position
),

counted as (
    select
        event_id,
        count(*)::integer as tickets,
        (array_agg(user_fingerprint order by request desc))[1] as last_owner
    from cancelled
    group by event_id
),

freed as (
    update events
    set
        allocated_tickets = events.allocated_tickets - counted.tickets,
        version = events.version + 1
    from counted
    where events.id = counted.event_id
    returning events as event, counted.tickets, counted.last_owner
),

recorded as (
    insert into event_ledger
    select entry.*
    from freed
    cross join lateral ledger_entry(
        freed.event, 'user_cancelled', freed.tickets, freed.last_owner
    ) as entry
)

select
    ranked.request,
    ranked.outcome,
    cancelled.id,
    cancelled.event_id,
    cancelled.user_fingerprint,
    cancelled.status,
    cancelled.expires_at,
    cancelled.created_at,
    cancelled.updated_at,
    cancelled.reservation_id,
    cancelled.position
from ranked
left join cancelled on ranked.request = cancelled.request
order by ranked.request;
