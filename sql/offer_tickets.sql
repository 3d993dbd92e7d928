-- offer_tickets
--
-- Offers the available tickets of events to those who wait in line for them. An offer is an
-- ordinary reservation of all the tickets that an entry wants.
--
-- Offers go in the order of the line. An entry that wants more than is available is passed by
-- later, smaller ones; but once the tickets that have passed it reach its quantity it blocks the
-- line, and what becomes available waits for it. So an entry of q is passed by at most 2q - 2
-- tickets: before the last entry that passes it at most q - 1 have, and that one wants at most
-- q - 1 itself.
--
-- parameters
--   event_ids  uuid[]    events that may have a line
--   hold       interval  how long tickets are held in events that do not say
--   most       integer   how many tickets of one event are offered at once; at least as many as one
--                        entry may want
--
-- returns: one row for each entry that got an offer or was ended
--   event_id
--   entry_id
--   is_offered  true: it has an offer. False: it was ended, because the event has fewer tickets
--               than it wants, or its person may not have so many
--   waited      seconds since the entry was made
--   has_more    whether the line of the event must be looked at again
--
-- locks: nothing beyond the events, which are locked already (lock_events)
--
-- never oversells: an entry is offered its tickets only if what is available under the lock, less
--   what those before it got, is enough; and the count grows by the number of rows inserted.
--
-- never exceeds a limit: an entry whose person may not have so many tickets is ended.
--
-- Not the whole line is read. What is offered to those who want q tickets goes to the first of
-- them, at most available / q; and of those who are passed over the first blocks no later than
-- another. So the first available / q + 1 entries of each quantity decide as the whole line would.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v hold=1h -v most=1000 \
--   -f sql/offer_tickets.sql

with batch_events as (
    select
        events.id,
        events.total_tickets,
        least(events.total_tickets - events.allocated_tickets, :'most'::integer) as available,
        events.total_tickets - events.allocated_tickets > :'most'::integer as is_capped,
        case
            when events.hold_seconds is null then statement_timestamp() + :'hold'::interval
            else hold_end(statement_timestamp(), events.hold_seconds)
        end as expires_at,
        events.max_tickets_per_person
    from events
    where
        events.id = any(:'event_ids'::uuid[])
        and events.waiting_tickets > 0
        and events.allocated_tickets < events.total_tickets
        and sale_status_at(
            events.sale_opens_at, events.sale_closes_at, statement_timestamp()
        ) = 'open'
),

-- The quantities that somebody may want.
quantities as (
    select
        batch_events.id as event_id,
        wanted.quantity
    from batch_events
    cross join lateral (
        select entries.quantity
        from waiting_entries as entries
        where entries.waiting_event_id = batch_events.id
        order by entries.quantity desc
        limit 1
    ) as largest
    cross join generate_series(1, largest.quantity) as wanted (quantity)
),

-- The first who want each quantity, with what has passed them and what their persons have.
candidates as (
    select
        batch_events.id as event_id,
        batch_events.available,
        batch_events.is_capped,
        batch_events.expires_at,
        entries.id,
        entries.position,
        entries.user_fingerprint,
        entries.quantity,
        entries.created_at,
        coalesce(passed.tickets, 0)::integer as passed,
        entries.quantity <= batch_events.total_tickets
        and (
            batch_events.max_tickets_per_person is null
            or entries.quantity + had.tickets <= batch_events.max_tickets_per_person
        ) as is_servable
    from quantities
    inner join batch_events on quantities.event_id = batch_events.id
    cross join lateral (
        select
            waiting.id,
            waiting.position,
            waiting.user_fingerprint,
            waiting.quantity,
            waiting.created_at
        from waiting_entries as waiting
        where
            waiting.waiting_event_id = quantities.event_id
            and waiting.quantity = quantities.quantity
        order by waiting.position
        limit batch_events.available / quantities.quantity + 1
    ) as entries
    cross join lateral (
        select sum(offered.quantity) as tickets
        from waiting_entries as offered
        where
            offered.event_id = quantities.event_id
            and offered.reservation_id is not null
            and offered.position > entries.position
    ) as passed
    cross join lateral (
        select count(*) as tickets
        from ticket_allocations as tickets
        where
            batch_events.max_tickets_per_person is not null
            and tickets.user_fingerprint = entries.user_fingerprint
            -- `is true` keeps the planner from the indexes of events and of statuses.
            and (tickets.event_id = quantities.event_id) is true
            and (
                status_at(tickets.status, tickets.expires_at, statement_timestamp())
                in ('reserved', 'purchased')
            ) is true
    ) as had
),

-- The line in its order. The first has nobody before it: hence the coalesce. An entry that cannot
-- be served takes its turn, too: those behind it get no more than if it could be, and the line is
-- looked at again when it is ended.
line as (
    select
        *,
        coalesce(
            turn_after(available, quantity, passed) over (
                partition by event_id
                order by position
                rows between unbounded preceding and 1 preceding
            ),
            array[available, 2147483647]
        ) as turn
    from candidates
),

decided as (
    select
        *,
        row_number() over (order by event_id, position) as nth,
        is_servable and turn[2] > 0 and quantity <= turn[1] as is_offered,
        case when not is_servable then statement_timestamp() end as unservable_at,
        bool_or(is_capped or not is_servable) over (partition by event_id) as has_more
    from line
),

-- Each offer with the id of its reservation.
offers as (
    select
        decided.*,
        seeds.seed,
        derived_id(seeds.seed, decided.nth, 0) as reservation_id
    from decided
    cross join time_ordered_uuid() as seeds (seed)
    where decided.is_offered
),

new_tickets as (
    insert into ticket_allocations (
        id, event_id, user_fingerprint, expires_at, reservation_id, position
    )
    select
        derived_id(offers.seed, offers.nth, positions.position) as id,
        offers.event_id,
        offers.user_fingerprint,
        offers.expires_at,
        offers.reservation_id,
        positions.position
    from offers
    cross join generate_series(1, offers.quantity) as positions (position)
    returning event_id
),

changed_entries as (
    update waiting_entries as entries
    set
        reservation_id = offers.reservation_id,
        unservable_at = decided.unservable_at
    from decided
    left join offers on decided.id = offers.id
    where
        entries.id = any(array(
            select chosen.id
            from decided as chosen
            where chosen.is_offered or not chosen.is_servable
        ))
        and entries.id = decided.id
    returning entries.id, entries.event_id, entries.quantity
),

offered as (
    select
        event_id,
        count(*)::integer as ticket_count
    from new_tickets
    group by event_id
),

counted as (
    select
        changed_entries.event_id,
        sum(changed_entries.quantity)::integer as waited_for,
        coalesce(max(offered.ticket_count), 0) as ticket_count
    from changed_entries
    left join offered on changed_entries.event_id = offered.event_id
    group by changed_entries.event_id
),

changed_events as (
    update events
    set
        allocated_tickets = events.allocated_tickets + counted.ticket_count,
        waiting_tickets = events.waiting_tickets - counted.waited_for,
        version = events.version + 1
    from counted
    where
        events.id = any(:'event_ids'::uuid[])
        and events.id = counted.event_id
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        counted.ticket_count
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, reserved, last_event
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        changed_events.ticket_count as reserved,
        case
            when changed_events.ticket_count > 0 then 'offered'::event_change
            else 'left'::event_change
        end as last_event
    from changed_events
)

select
    decided.event_id,
    decided.id as entry_id,
    decided.is_offered,
    extract(epoch from statement_timestamp() - decided.created_at)::double precision as waited,
    decided.has_more
from decided
where decided.is_offered or not decided.is_servable
order by decided.event_id, decided.position;
