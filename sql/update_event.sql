-- update_event
--
-- Changes an event's name, date, total or terms of sale. What `changes` does not name stays as it
-- is; null clears a term.
--
-- parameters
--   event_id  uuid
--   changes   jsonb  an object with any of name, date, total_tickets, sale_opens_at,
--                    sale_closes_at, hold_seconds, max_hold_seconds, max_tickets_per_person, and
--                    revision: the one that is expected. The times of the sale may be 'now'.
--
-- returns: one row
--   outcome  granted (also when nothing differs), not_found, contradictory_terms, event_changed,
--            capacity_below_allocated; or more_to_expire: the new total fits, but not before more
--            holds have expired than one transaction expires, so the service sends the change again
--   detail   the event's revision for event_changed and more_to_expire, else its allocated_tickets
--            without the holds whose time is up
--   bad      text[]  for contradictory_terms: sale_closes_at if it is not after sale_opens_at, and
--                    max_hold_seconds if it is less than hold_seconds
--
-- locks: no further row: the event is locked already (lock_events). A name and date that another
--   event has raise 23505, so this statement runs in a transaction of its own, whose failure takes
--   no other change with it.
--
-- never oversells: it refuses a total below what is allocated, read under the lock; the constraint
--   events_never_oversold is the last line of defense.
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 \
--   -v changes='{"total_tickets": 500, "sale_closes_at": "now"}' -f sql/update_event.sql

with changes as (
    select
        sent.*,
        :'changes'::jsonb as named
    from jsonb_to_record(:'changes'::jsonb) as sent (
        name varchar, date timestamptz, total_tickets integer, sale_opens_at timestamptz,
        sale_closes_at timestamptz, hold_seconds integer, max_hold_seconds integer,
        max_tickets_per_person integer, revision bigint
    )
),

-- The event as it will be. A term that is named and null is cleared; one that is not named stays.
-- For 'now' PostgreSQL would take the time at which the transaction began, before it had the lock.
wanted as (
    select
        events.id,
        events.allocated_tickets,
        events.total_tickets as old_total,
        events.revision as old_revision,
        coalesce(changes.revision, events.revision) as expected_revision,
        coalesce(changes.name, events.name) as name,
        coalesce(changes.date, events.date) as date,
        coalesce(changes.total_tickets, events.total_tickets) as total_tickets,
        case
            when changes.named ->> 'sale_opens_at' = 'now' then statement_timestamp()
            when changes.named ? 'sale_opens_at' then changes.sale_opens_at
            else events.sale_opens_at
        end as sale_opens_at,
        case
            when changes.named ->> 'sale_closes_at' = 'now' then statement_timestamp()
            when changes.named ? 'sale_closes_at' then changes.sale_closes_at
            else events.sale_closes_at
        end as sale_closes_at,
        case
            when changes.named ? 'hold_seconds' then changes.hold_seconds
            else events.hold_seconds
        end as hold_seconds,
        case
            when changes.named ? 'max_hold_seconds' then changes.max_hold_seconds
            else events.max_hold_seconds
        end as max_hold_seconds,
        case
            when changes.named ? 'max_tickets_per_person' then changes.max_tickets_per_person
            else events.max_tickets_per_person
        end as max_tickets_per_person
    from events
    cross join changes
    where events.id = :'event_id'::uuid
),

-- How many holds count as allocated although their time is up. They matter only to a total that
-- would be too small.
lapsed as (
    select count(*)::integer as tickets
    from ticket_allocations as tickets
    where
        tickets.held_event_id = :'event_id'::uuid
        and tickets.held_until <= statement_timestamp()
        and exists (
            select
            from wanted
            where wanted.total_tickets < wanted.allocated_tickets
        )
),

checked as (
    select
        wanted.*,
        wanted.allocated_tickets - lapsed.tickets as live_tickets,
        array_remove(
            array[
                case when wanted.sale_opens_at >= wanted.sale_closes_at then 'sale_closes_at' end,
                case when wanted.max_hold_seconds < wanted.hold_seconds then 'max_hold_seconds' end
            ],
            null
        ) as bad
    from wanted
    cross join lapsed
),

decided as (
    select
        *,
        case
            when bad <> '{}' then 'contradictory_terms'
            when expected_revision <> old_revision then 'event_changed'
            when total_tickets < live_tickets then 'capacity_below_allocated'
            when total_tickets < allocated_tickets then 'more_to_expire'
            else 'granted'
        end as outcome
    from checked
),

changed_events as (
    update events
    set
        name = decided.name,
        date = decided.date,
        total_tickets = decided.total_tickets,
        sale_opens_at = decided.sale_opens_at,
        sale_closes_at = decided.sale_closes_at,
        hold_seconds = decided.hold_seconds,
        max_hold_seconds = decided.max_hold_seconds,
        max_tickets_per_person = decided.max_tickets_per_person,
        revision = events.revision + 1,
        version = events.version + 1
    from decided
    where
        events.id = :'event_id'::uuid
        and events.id = decided.id
        and decided.outcome = 'granted'
        and (
            events.name, events.date, events.total_tickets, events.sale_opens_at,
            events.sale_closes_at, events.hold_seconds, events.max_hold_seconds,
            events.max_tickets_per_person
        ) is distinct from (
            decided.name, decided.date, decided.total_tickets, decided.sale_opens_at,
            decided.sale_closes_at, decided.hold_seconds, decided.max_hold_seconds,
            decided.max_tickets_per_person
        )
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets, events.waiting_tickets,
        decided.total_tickets <> decided.old_total as is_resized
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, last_event
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        changed_events.waiting_tickets,
        case
            when changed_events.is_resized then 'resized'::event_change
            else 'updated'::event_change
        end as last_event
    from changed_events
)

select
    coalesce(decided.outcome, 'not_found') as outcome,
    case
        when decided.outcome in ('event_changed', 'more_to_expire') then decided.old_revision
        else decided.live_tickets
    end as detail,
    decided.bad
-- One row also when there is no such event.
from (values (true)) as request (is_made)
left join decided on request.is_made;
