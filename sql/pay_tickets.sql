-- pay_tickets
--
-- Turns holds into purchases, for a batch of requests, each about one ticket or one reservation.
-- Only the owner can pay, and only before the hold expires. Paying for a reservation pays for all
-- its held tickets, or for none if one of its holds has expired; tickets that were purchased,
-- cancelled or refunded before are passed over.
--
-- parameters: one element of each array for a request, in the order of arrival
--   ticket_ids         uuid[]  the ticket to pay for; null in a request about a reservation
--   reservation_ids    uuid[]  the reservation to pay for; null in a request about a ticket
--   user_fingerprints  text[]  who pays
--
-- returns: for a granted request one row for each ticket that it is about and that its sender owns;
--   for another one row without a ticket
--   request             from 1, in the order of arrival
--   outcome             granted, not_found, wrong_fingerprint, hold_expired, already_purchased,
--                       already_cancelled, already_refunded; busy if its tickets were changed
--                       meanwhile by hand, without lock_events
--   deciding_ticket_id  the ticket that decided the outcome
--   tickets_moved       how many tickets this request itself paid for
--   id, …               the ticket, also one that was passed over, as it is now
--
-- locks: the tickets that it pays for; their events are locked already (lock_events)
--
-- never oversells: a ticket that is paid for was allocated before and stays so. purchased_tickets
--   grows by the number of rows that this statement moved out of reserved, and a row leaves
--   reserved once: of several requests for one ticket the first gets it.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -v reservation_ids='{null}' -v user_fingerprints='{alice}' -f sql/pay_tickets.sql

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

-- The same tickets with what they are, and whether each could be paid for.
judged as (
    select
        asked.request,
        tickets.user_fingerprint = asked.user_fingerprint as is_owner,
        -- granted for a hold that lasts; else what the ticket is instead. The clock is later than
        -- the lock.
        hold_outcome(
            tickets.status, tickets.expires_at, statement_timestamp()
        ) as ticket_outcome,
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

-- One ticket decides each request. In this order: the sender's own; an expired hold, which refuses
-- the whole request, then a live one, then a purchase, then any other; the first by position.
decided as (
    select distinct on (requests.request)
        requests.request,
        judged.id as deciding_ticket_id,
        case
            when judged.id is null then 'not_found'
            when not judged.is_owner then 'wrong_fingerprint'
            else judged.ticket_outcome
        end as outcome
    from requests
    left join judged on requests.request = judged.request
    order by
        requests.request,
        not judged.is_owner,
        case
            when judged.is_owner then array_position(
                '{hold_expired, granted, already_purchased}'::text[], judged.ticket_outcome
            )
        end,
        judged.position
),

-- The held tickets of the granted requests, each for the first granted request that is about it.
payable as (
    select distinct on (judged.id)
        judged.id,
        judged.request
    from decided
    inner join judged on decided.request = judged.request
    where decided.outcome = 'granted' and judged.ticket_outcome = 'granted' and judged.is_owner
    order by judged.id, judged.request
),

paid as (
    update ticket_allocations as tickets
    set
        status = 'purchased',
        expires_at = null
    where
        tickets.id = any(array(select payable.id from payable))
        -- Once more: if a row was changed by hand since `judged` read it, the update checks its
        -- newest version. `is true` keeps the planner from looking up all that is reserved.
        and (tickets.status = 'reserved') is true
    returning
        tickets.id, tickets.event_id, tickets.user_fingerprint, tickets.status, tickets.updated_at
),

counted as (
    select
        paid.event_id,
        count(*)::integer as ticket_count,
        (array_agg(paid.user_fingerprint order by payable.request desc))[1] as last_buyer
    from paid
    inner join payable on paid.id = payable.id
    group by paid.event_id
),

changed_events as (
    update events
    set
        purchased_tickets = events.purchased_tickets + counted.ticket_count,
        version = events.version + 1
    from counted
    where
        events.id = any(array(select counted.event_id from counted))
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.ticket_count, counted.last_buyer
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, purchased, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.ticket_count as purchased,
        'purchased' as last_event,
        actor_name(secrets.secret, changed_events.last_buyer) as actor
    from changed_events
    inner join event_private as secrets on changed_events.id = secrets.event_id
    where secrets.event_id = any(array(select changed_events.id from changed_events))
),

-- How many tickets each request got.
moved as (
    select
        payable.request,
        count(*)::integer as ticket_count
    from payable
    inner join paid on payable.id = paid.id
    group by payable.request
),

-- Requests that got none, because an earlier one of this batch was first, with their tickets as
-- they are after that one; and what decides these requests.
seen_late as (
    select
        judged.request,
        judged.id,
        judged.position,
        case
            when paid.id is null then judged.ticket_outcome
            else 'already_purchased'
        end as ticket_outcome
    from judged
    inner join decided on judged.request = decided.request
    left join moved on judged.request = moved.request
    left join paid on judged.id = paid.id
    where judged.is_owner and decided.outcome = 'granted' and moved.ticket_count is null
),

late as (
    select distinct on (request)
        request,
        id as deciding_ticket_id,
        ticket_outcome as outcome
    from seen_late
    order by
        request,
        array_position('{hold_expired, granted, already_purchased}'::text[], ticket_outcome),
        position
),

outcomes as (
    select
        decided.request,
        coalesce(late.deciding_ticket_id, decided.deciding_ticket_id) as deciding_ticket_id,
        moved.ticket_count as tickets_moved,
        case
            when late.outcome = 'granted' then 'busy'
            else coalesce(late.outcome, decided.outcome)
        end as outcome
    from decided
    left join moved on decided.request = moved.request
    left join late on decided.request = late.request
)

select
    outcomes.request,
    outcomes.outcome,
    outcomes.deciding_ticket_id,
    outcomes.tickets_moved,
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
