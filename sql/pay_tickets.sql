-- pay_tickets
--
-- Turns holds into purchases, each for the owner of its ticket alone and while it lasts.
--
-- parameters, one element of each array for a request, in the order of arrival
--   ticket_ids         uuid[]  the ticket to pay for
--   user_fingerprints  text[]  who pays
--
-- returns: request (from 1), outcome, and the ticket when the outcome is granted
--   outcome: granted, not_found, wrong_fingerprint, hold_expired, already_purchased,
--   already_cancelled, already_refunded
-- locks: the tickets it moves; their events are locked already (lock_events)
-- never oversells: a paid ticket was allocated before and stays so; what grows is how many
--   of the allocated are purchased, by the rows moved here. Of two payments for one ticket
--   in a batch the first moves it.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -v user_fingerprints='{alice}' -f sql/pay_tickets.sql

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
order by ranked.request;
