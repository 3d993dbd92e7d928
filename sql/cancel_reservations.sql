-- cancel_reservations
--
-- Gives all holds of a reservation back, at the word of their owner: all or none, free at once.
--
-- parameters, one element of each array for a request, in the order of arrival
--   reservation_ids    uuid[]  the reservation to give back
--   user_fingerprints  text[]  who gives it back
--
-- returns: request (from 1), outcome, in_the_way, and each ticket when the outcome is granted
--   outcome: as in cancel_tickets
--   in_the_way: the first ticket by position that the outcome is about, unless it is granted;
--   one of somebody else comes before any other
-- locks: the tickets it moves; their events are locked already (lock_events)
-- never oversells: it lowers allocated_tickets by the rows it has itself moved out of
--   reserved, and a row leaves reserved once
--
-- holdfast psql -v reservation_ids='{018f0000-0000-7000-8000-000000000003}' \
--   -v user_fingerprints='{alice}' -f sql/cancel_reservations.sql

with asked as (
    select
        request,
        reservation_id,
        user_fingerprint
    from unnest(:'reservation_ids'::uuid[], :'user_fingerprints'::text[])
    with ordinality as asked (reservation_id, user_fingerprint, request)
),

weighed as (
    select
        asked.request,
        asked.reservation_id,
        tickets.id as ticket_id,
        tickets.position,
        hold_verdict(tickets, asked.user_fingerprint) as verdict
    from asked
    left join ticket_allocations as tickets on asked.reservation_id = tickets.reservation_id
),

judged as (
    select distinct on (request)
        request,
        reservation_id,
        ticket_id as in_the_way,
        verdict
    from weighed
    order by request, verdict <> 'wrong_fingerprint', verdict = 'granted', position
),

ranked as (
    select
        request,
        reservation_id,
        in_the_way,
        case
            when verdict <> 'granted' then verdict
            when row_number() over (partition by reservation_id, verdict order by request) = 1
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
        and tickets.reservation_id = ranked.reservation_id
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
    case when ranked.outcome <> 'granted' then ranked.in_the_way end as in_the_way,
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
order by ranked.request, cancelled.position;
