-- leave_waiting_list
--
-- Takes people out of the line, for a batch of requests, each about one entry. Only its owner can
-- leave. An open offer is cancelled with the entry: the tickets that its owner still holds become
-- available, and offer_tickets, which runs next in the same transaction, offers them to the next.
--
-- parameters: one element of each array for a request, in the order of arrival
--   event_ids          uuid[]  the entries' events
--   entry_ids          uuid[]
--   user_fingerprints  text[]  who leaves
--
-- returns: one row for each request
--   request  from 1, in the order of arrival
--   outcome  granted, not_found, wrong_fingerprint, already_left; already_purchased if a ticket of
--            the offer is or was purchased; hold_expired if the offer, or the entry, has lapsed
--   tickets_moved  how many tickets were cancelled
--
-- locks: the entries and the tickets of their offers; their events are locked already (lock_events)
--
-- never oversells: allocated_tickets shrinks by the number of rows that this statement moved out of
--   reserved.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' \
--   -v entry_ids='{018f0000-0000-7000-8000-000000000003}' -v user_fingerprints='{bob}' \
--   -f sql/leave_waiting_list.sql

with requests as (
    select
        arrivals.request,
        arrivals.user_fingerprint,
        entries.id,
        entries.event_id,
        entries.quantity,
        entries.user_fingerprint as owner,
        entries.reservation_id,
        entries.left_at,
        entries.unservable_at
    from unnest(
        :'event_ids'::uuid[], :'entry_ids'::uuid[], :'user_fingerprints'::text[]
    ) with ordinality as arrivals (event_id, entry_id, user_fingerprint, request)
    left join waiting_entries as entries
        on arrivals.entry_id = entries.id
        and arrivals.event_id = entries.event_id
        and entries.id = any(:'entry_ids'::uuid[])
),

judged as (
    select
        requests.*,
        case
            when requests.id is null then 'not_found'
            when requests.owner <> requests.user_fingerprint then 'wrong_fingerprint'
            when requests.left_at is not null then 'already_left'
            when requests.unservable_at is not null then 'hold_expired'
            when requests.reservation_id is null then 'granted'
            when offer.is_purchased then 'already_purchased'
            when offer.is_held then 'granted'
            else 'hold_expired'
        end as outcome
    from requests
    cross join lateral (
        select
            coalesce(bool_or(tickets.held_until > statement_timestamp()), false) as is_held,
            coalesce(bool_or(tickets.status in ('purchased', 'refunded')), false) as is_purchased
        from ticket_allocations as tickets
        where tickets.reservation_id = requests.reservation_id
    ) as offer
),

-- Of several requests of an owner the first takes the entry out.
leaving as (
    select distinct on (id)
        id,
        request,
        event_id,
        quantity,
        user_fingerprint,
        reservation_id
    from judged
    where outcome = 'granted'
    order by id, request
),

entries_left as (
    update waiting_entries as entries
    set left_at = statement_timestamp()
    where entries.id = any(array(select leaving.id from leaving))
    returning entries.id
),

cancelled as (
    update ticket_allocations as tickets
    set status = 'user_cancelled'
    from leaving
    where
        tickets.reservation_id = any(array(select leaving.reservation_id from leaving))
        and tickets.reservation_id = leaving.reservation_id
        and tickets.user_fingerprint = leaving.user_fingerprint
        and (tickets.status = 'reserved') is true
        and (tickets.expires_at > statement_timestamp()) is true
    returning tickets.id, leaving.request, leaving.event_id
),

moved as (
    select
        request,
        count(*)::integer as ticket_count
    from cancelled
    group by request
),

counted as (
    select
        leaving.event_id,
        coalesce(sum(moved.ticket_count), 0)::integer as ticket_count,
        coalesce(sum(leaving.quantity) filter (where leaving.reservation_id is null), 0)::integer
            as waited_for,
        (array_agg(leaving.user_fingerprint order by leaving.request desc))[1] as last_person
    from leaving
    inner join entries_left on leaving.id = entries_left.id
    left join moved on leaving.request = moved.request
    group by leaving.event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets - counted.ticket_count,
        waiting_tickets = events.waiting_tickets - counted.waited_for,
        version = events.version + 1
    from counted
    where
        events.id = any(:'event_ids'::uuid[])
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.ticket_count, counted.last_person
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, cancelled, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.ticket_count as cancelled,
        'left' as last_event,
        actor_name(secrets.secret, changed_events.last_person) as actor
    from changed_events
    inner join event_private as secrets on changed_events.id = secrets.event_id
    where secrets.event_id = any(:'event_ids'::uuid[])
)

select
    judged.request,
    case
        when judged.outcome = 'granted' and leaving.id is null then 'already_left'
        else judged.outcome
    end as outcome,
    coalesce(moved.ticket_count, 0) as tickets_moved
from judged
left join leaving on judged.request = leaving.request
left join moved on judged.request = moved.request
order by judged.request;
