-- pay_reservations
--
-- Turns all holds of a reservation into purchases, for their owner alone and while each of
-- them lasts: all or none.
--
-- parameters, one element of each array for a request, in the order of arrival
--   reservation_ids    uuid[]  the reservation to pay for
--   user_fingerprints  text[]  who pays
--
-- returns: request (from 1), outcome, in_the_way, and each ticket when the outcome is granted
--   outcome: as in pay_tickets
--   in_the_way: the first ticket by position that the outcome is about, unless it is granted;
--   one of somebody else comes before any other
-- locks: the tickets it moves; their events are locked already (lock_events)
-- never oversells: a paid ticket was allocated before and stays so; what grows is how many
--   of the allocated are purchased, by the rows moved here
--
-- holdfast psql -v reservation_ids='{018f0000-0000-7000-8000-000000000003}' \
--   -v user_fingerprints='{alice}' -f sql/pay_reservations.sql

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
            else 'already_purchased'
        end as outcome
    from judged
),

paid as (
    update ticket_allocations as tickets
    set
        status = 'purchased',
        expires_at = null
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
        (array_agg(user_fingerprint order by request desc))[1] as last_buyer
    from paid
    group by event_id
),

purchased as (
    update events
    set
        purchased_tickets = events.purchased_tickets + counted.tickets,
        version = events.version + 1
    from counted
    where events.id = counted.event_id
    returning events as event, counted.tickets, counted.last_buyer
),

recorded as (
    insert into event_ledger
    select entry.*
    from purchased
    cross join lateral ledger_entry(
        purchased.event, 'purchased', purchased.tickets, purchased.last_buyer
    ) as entry
)

select
    ranked.request,
    ranked.outcome,
    case when ranked.outcome <> 'granted' then ranked.in_the_way end as in_the_way,
    paid.id,
    paid.event_id,
    paid.user_fingerprint,
    paid.status,
    paid.expires_at,
    paid.created_at,
    paid.updated_at,
    paid.reservation_id,
    paid.position
from ranked
left join paid on ranked.request = paid.request
order by ranked.request, paid.position;
