-- extend_reservations
--
-- Extends the holds of reservations, for a batch of requests: each held ticket of the sender is
-- held for another hold's length from now, all of them or none. A hold never lasts longer than the
-- maximum since it was made, and is never shortened. Nothing else changes, so the event has no new
-- version.
--
-- parameters: one element of each array for a request, in the order of arrival
--   reservation_ids    uuid[]
--   user_fingerprints  text[]   who asks
--   hold_seconds       integer  how long a hold lasts, unless the event says otherwise
--   max_hold_seconds   integer  how long it may last since it was made, likewise; never less than
--                               a hold
--
-- returns: for granted and hold_at_maximum one row for each ticket of the reservation that the
--   sender owns; for another outcome one row without a ticket
--   request             from 1, in the order of arrival
--   outcome             granted, not_found, wrong_fingerprint, hold_expired; hold_at_maximum if it
--                       would gain less than a second; if nothing is held already_purchased,
--                       already_cancelled or already_refunded; busy if its tickets were changed
--                       meanwhile by hand, without lock_events
--   deciding_ticket_id  the ticket that decided the outcome
--   tickets_moved       how many holds this request extended
--   id, …               the ticket, as it is now
--
-- locks: the tickets that it extends; their events are locked already (lock_events), so that a hold
--   is either extended or expires. The clock is later than the lock.
--
-- never oversells: it changes when a hold ends, and no count.
--
-- holdfast psql -v reservation_ids='{018f0000-0000-7000-8000-000000000003}' \
--   -v user_fingerprints='{alice}' -v hold_seconds=900 -v max_hold_seconds=1800 \
--   -f sql/extend_reservations.sql

with requests as (
    select
        request,
        reservation_id,
        user_fingerprint,
        -- Of several requests of one sender for one reservation the first extends it.
        row_number() over (
            partition by reservation_id, user_fingerprint order by request
        ) > 1 as is_repeat
    from unnest(:'reservation_ids'::uuid[], :'user_fingerprints'::text[])
        with ordinality as arrivals (reservation_id, user_fingerprint, request)
),

-- The lengths of holds in the events concerned.
lengths as (
    select
        id as event_id,
        coalesce(hold_seconds, :'hold_seconds'::integer) as hold_seconds,
        greatest(
            coalesce(max_hold_seconds, :'max_hold_seconds'::integer),
            coalesce(hold_seconds, :'hold_seconds'::integer)
        ) as max_hold_seconds
    from events
    where
        id = any(array(
            select tickets.event_id
            from ticket_allocations as tickets
            where tickets.reservation_id = any(:'reservation_ids'::uuid[])
        ))
),

-- Every ticket that a request is about, with what it is and how long it could be held.
judged as (
    select
        requests.request,
        tickets.user_fingerprint = requests.user_fingerprint as is_owner,
        hold_outcome(
            tickets.status, tickets.expires_at, statement_timestamp()
        ) as ticket_outcome,
        least(
            hold_end(statement_timestamp(), lengths.hold_seconds),
            hold_end(tickets.created_at, lengths.max_hold_seconds)
        ) as extended_to,
        tickets.id,
        tickets.event_id,
        tickets.user_fingerprint,
        tickets.status,
        tickets.expires_at,
        tickets.created_at,
        tickets.updated_at,
        tickets.reservation_id,
        tickets.position
    from requests
    inner join ticket_allocations as tickets on requests.reservation_id = tickets.reservation_id
    inner join lengths on tickets.event_id = lengths.event_id
    where tickets.reservation_id = any(:'reservation_ids'::uuid[])
),

-- One ticket decides each request, as in pay_tickets: the sender's own; an expired hold, which
-- refuses the whole request, then a live one, then a purchase, then any other; the first by
-- position.
deciding as (
    select distinct on (requests.request)
        requests.request,
        requests.is_repeat,
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

-- Whether any hold of the request gains at least a second.
gains as (
    select
        request,
        bool_or(extended_to >= hold_end(expires_at, 1)) as has_gain
    from judged
    where is_owner and ticket_outcome = 'granted'
    group by request
),

decided as (
    select
        deciding.request,
        deciding.deciding_ticket_id,
        case
            when deciding.outcome <> 'granted' then deciding.outcome
            when gains.has_gain and not deciding.is_repeat then 'granted'
            else 'hold_at_maximum'
        end as outcome
    from deciding
    left join gains on deciding.request = gains.request
),

extendable as (
    select
        judged.id,
        judged.request,
        greatest(judged.extended_to, judged.expires_at) as extended_to
    from decided
    inner join judged on decided.request = judged.request
    where decided.outcome = 'granted' and judged.ticket_outcome = 'granted' and judged.is_owner
),

extended as (
    update ticket_allocations as tickets
    set expires_at = extendable.extended_to
    from extendable
    where
        tickets.id = any(array(select extendable.id from extendable))
        and tickets.id = extendable.id
        -- Once more: if a row was changed by hand since `judged` read it, the update checks its
        -- newest version. `is true` keeps the planner from looking up all that is reserved.
        and (tickets.status = 'reserved') is true
    returning tickets.id, tickets.expires_at, tickets.updated_at, extendable.request
),

moved as (
    select
        request,
        count(*)::integer as ticket_count
    from extended
    group by request
),

outcomes as (
    select
        decided.request,
        decided.deciding_ticket_id,
        moved.ticket_count as tickets_moved,
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
    judged.id,
    judged.event_id,
    judged.user_fingerprint,
    status_at(judged.status, judged.expires_at, statement_timestamp()) as status,
    coalesce(extended.expires_at, judged.expires_at) as expires_at,
    judged.created_at,
    coalesce(extended.updated_at, judged.updated_at) as updated_at,
    judged.reservation_id,
    judged.position
from outcomes
left join judged
    on
        outcomes.request = judged.request
        and outcomes.outcome in ('granted', 'hold_at_maximum')
        and judged.is_owner
-- Also for a repeat, which shows what the first request did.
left join extended on judged.id = extended.id
order by outcomes.request, judged.position;
