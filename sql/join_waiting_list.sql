-- join_waiting_list
--
-- Puts people into the line for an event's tickets, for a batch of requests in the order in which
-- they arrived. offer_tickets runs next in the same transaction: who finds tickets available and
-- nobody ahead has an offer at once. The service never puts two requests of one person for one
-- event into one batch.
--
-- parameters: one element of each array for a request, in the order of arrival
--   event_ids          uuid[]
--   quantities         integer[]  at least 1, which the service checks
--   user_fingerprints  text[]     who wants the tickets
--   max_entries        integer    how many entries may wait for one event
--
-- returns: one row for each request
--   request            from 1, in the order of arrival
--   outcome            granted; replayed, if the person already waits, or has an offer, for as many
--                      tickets; not_found, already_waiting, sale_not_open, sale_closed,
--                      limit_reached, not_enough_tickets, waiting_list_full
--   entry_id           of granted and replayed
--   available_tickets  of the event, before any offer
--   waiting_tickets    how many tickets those who wait already want
--   sale_turns_at      of sale_not_open and sale_closed: when the sale opens, or closed
--   opens_in           of sale_not_open: the seconds until then
--   person             integer[]  of limit_reached: max_tickets_per_person, and how many tickets
--                      the person holds and has purchased
--
-- locks: nothing beyond the events, which are locked already (lock_events). So the line is as this
--   statement sees it until the commit.
--
-- never oversells: nobody gets a ticket here.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{bob}' -v max_entries=100000 -f sql/join_waiting_list.sql

with batch_events as (
    select
        events.id,
        events.total_tickets,
        events.total_tickets - events.allocated_tickets as available_tickets,
        events.waiting_tickets,
        events.sale_opens_at,
        events.sale_closes_at,
        sale_status_at(
            events.sale_opens_at, events.sale_closes_at, statement_timestamp()
        ) as sale_status,
        events.max_tickets_per_person,
        secrets.secret,
        coalesce(ends.last_position, 0) as last_position,
        line.entries
    from events
    inner join event_private as secrets on events.id = secrets.event_id
    cross join lateral (
        select max(entries.position) as last_position
        from waiting_entries as entries
        where entries.event_id = events.id
    ) as ends
    -- Counted only if the line could be full: each entry waits for a ticket at least.
    cross join lateral (
        select count(*) as entries
        from waiting_entries as waiting
        where
            events.waiting_tickets >= :'max_entries'::integer
            and waiting.waiting_event_id = events.id
    ) as line
    where
        events.id = any(:'event_ids'::uuid[])
        and secrets.event_id = any(:'event_ids'::uuid[])
),

requests as (
    select
        arrivals.request,
        arrivals.event_id,
        arrivals.quantity,
        arrivals.user_fingerprint,
        batch_events.total_tickets,
        batch_events.available_tickets,
        batch_events.waiting_tickets,
        batch_events.sale_opens_at,
        batch_events.sale_closes_at,
        batch_events.sale_status,
        batch_events.max_tickets_per_person,
        batch_events.last_position,
        batch_events.entries,
        mine.entry_id,
        mine.entry_quantity,
        had.held,
        had.purchased
    from unnest(
        :'event_ids'::uuid[], :'quantities'::integer[], :'user_fingerprints'::text[]
    ) with ordinality as arrivals (event_id, quantity, user_fingerprint, request)
    left join batch_events on arrivals.event_id = batch_events.id
    -- The person's entry that waits or has an open offer: the latest.
    cross join lateral (
        select
            (array_agg(entries.id order by entries.position desc))[1] as entry_id,
            (array_agg(entries.quantity order by entries.position desc))[1] as entry_quantity
        from waiting_entries as entries
        where
            entries.user_fingerprint = arrivals.user_fingerprint
            and entries.event_id = batch_events.id
            and entries.left_at is null
            and entries.unservable_at is null
            and (
                entries.reservation_id is null
                or exists (
                    select
                    from ticket_allocations as tickets
                    where
                        tickets.reservation_id = entries.reservation_id
                        and tickets.held_until > statement_timestamp()
                )
            )
    ) as mine
    -- What the person has, in an event that limits it.
    cross join lateral (
        select
            count(*) filter (where tickets.status = 'reserved')::integer as held,
            count(*) filter (where tickets.status = 'purchased')::integer as purchased
        from ticket_allocations as tickets
        where
            batch_events.max_tickets_per_person is not null
            and tickets.user_fingerprint = arrivals.user_fingerprint
            -- `is true` keeps the planner from the indexes of events and of statuses.
            and (tickets.event_id = arrivals.event_id) is true
            and (
                status_at(tickets.status, tickets.expires_at, statement_timestamp())
                in ('reserved', 'purchased')
            ) is true
    ) as had
),

judged as (
    select
        *,
        case
            when total_tickets is null then 'not_found'
            when entry_quantity = quantity then 'replayed'
            when entry_id is not null then 'already_waiting'
            when sale_status = 'upcoming' then 'sale_not_open'
            when sale_status = 'closed' then 'sale_closed'
            when held + purchased + quantity > max_tickets_per_person then 'limit_reached'
            when quantity > total_tickets then 'not_enough_tickets'
            else 'granted'
        end as outcome
    from requests
),

-- Those who join, with their places in the line.
queue as (
    select
        *,
        row_number() over (partition by event_id, outcome order by request) as nth
    from judged
),

decided as (
    select
        *,
        case
            when outcome = 'granted' and entries + nth > :'max_entries'::integer
                then 'waiting_list_full'
            else outcome
        end as final_outcome
    from queue
),

joined as (
    insert into waiting_entries (event_id, position, user_fingerprint, quantity)
    select
        event_id,
        last_position + nth as position,
        user_fingerprint,
        quantity
    from decided
    where final_outcome = 'granted'
    returning id, event_id, position, user_fingerprint, quantity
),

counted as (
    select
        event_id,
        sum(quantity)::integer as ticket_count,
        (array_agg(user_fingerprint order by position desc))[1] as last_person
    from joined
    group by event_id
),

changed_events as (
    update events
    set
        waiting_tickets = events.waiting_tickets + counted.ticket_count,
        version = events.version + 1
    from counted
    where
        events.id = any(:'event_ids'::uuid[])
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.last_person
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, last_event, actor
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        'joined' as last_event,
        actor_name(batch_events.secret, changed_events.last_person) as actor
    from changed_events
    inner join batch_events on changed_events.id = batch_events.id
)

select
    decided.request,
    decided.final_outcome as outcome,
    case decided.final_outcome
        when 'granted' then joined.id
        when 'replayed' then decided.entry_id
    end as entry_id,
    decided.available_tickets,
    decided.waiting_tickets,
    case decided.outcome
        when 'sale_not_open' then decided.sale_opens_at
        when 'sale_closed' then decided.sale_closes_at
    end as sale_turns_at,
    case
        when decided.outcome = 'sale_not_open'
            then extract(epoch from decided.sale_opens_at - statement_timestamp())
    end::double precision as opens_in,
    case
        when decided.outcome = 'limit_reached'
            then array[decided.max_tickets_per_person, decided.held, decided.purchased]
    end as person
from decided
left join joined
    on
        decided.event_id = joined.event_id
        and decided.last_position + decided.nth = joined.position
        and decided.final_outcome = 'granted'
order by decided.request;
