-- refund_tickets
--
-- Refunds purchases, for a batch of requests of the organizer; each ticket is available again at
-- once.
--
-- parameters: one element for a request, in the order of arrival
--   ticket_ids  uuid[]
--
-- returns: one row for each request
--   request  from 1, in the order of arrival
--   outcome  granted, not_found, not_purchased, already_refunded; busy when somebody changed the
--            ticket in psql meanwhile
--   id, …    the ticket, if the outcome is granted
--
-- locks: the tickets that it refunds; their events are locked already (lock_events)
--
-- never oversells: both counts shrink by the number of rows that this statement moved out of
--   purchased, and a row leaves purchased once.
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -f sql/refund_tickets.sql

with decided as (
    select
        requests.request,
        requests.ticket_id,
        case
            when tickets.id is null then 'not_found'
            when tickets.status = 'refunded' then 'already_refunded'
            when tickets.status <> 'purchased' then 'not_purchased'
            -- Of several requests for one ticket the first gets it.
            when row_number() over (partition by requests.ticket_id order by requests.request) > 1
                then 'already_refunded'
            else 'granted'
        end as outcome
    from unnest(:'ticket_ids'::uuid[]) with ordinality as requests (ticket_id, request)
    left join ticket_allocations as tickets
        on
            requests.ticket_id = tickets.id
            -- Then each is looked up by its id, whatever the planner expects.
            and tickets.id = any(:'ticket_ids'::uuid[])
),

refunded as (
    update ticket_allocations as tickets
    set status = 'refunded'
    where
        tickets.id = any(array(
            select decided.ticket_id
            from decided
            where decided.outcome = 'granted'
        ))
        -- Again: a row that somebody has changed in psql meanwhile is read anew here. `is true`
        -- keeps the planner from searching an index for all that is purchased.
        and (tickets.status = 'purchased') is true
    returning
        tickets.id, tickets.event_id, tickets.user_fingerprint, tickets.status,
        tickets.expires_at, tickets.created_at, tickets.updated_at, tickets.reservation_id,
        tickets.position
),

counted as (
    select
        event_id,
        count(*)::integer as tickets
    from refunded
    group by event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets - counted.tickets,
        purchased_tickets = events.purchased_tickets - counted.tickets,
        version = events.version + 1
    from counted
    where
        events.id = any(array(select counted.event_id from counted))
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, counted.tickets
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        refunded, last_event
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.tickets as refunded,
        'refunded' as last_event
    from changed_events
)

select
    decided.request,
    case
        when decided.outcome = 'granted' and refunded.id is null then 'busy'
        else decided.outcome
    end as outcome,
    refunded.*
from decided
left join refunded on decided.outcome = 'granted' and decided.ticket_id = refunded.id
order by decided.request;
