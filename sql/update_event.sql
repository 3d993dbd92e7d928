-- update_event
--
-- Changes an event's name, date or total; what `changes` does not name stays as it is.
--
-- parameters
--   event_id  uuid
--   changes   jsonb  an object with any of name, date and total_tickets
--
-- returns: one row
--   outcome            granted (also when nothing differs), not_found, capacity_below_allocated, or
--                      more_to_expire: the new total fits, but not before more holds have expired
--                      than one transaction expires, so the service sends the change again
--   allocated_tickets  of the event, without the holds whose time is up
--
-- locks: no further row: the event is locked already (lock_events). A name and date that another
--   event has raise 23505, so this statement runs in a transaction of its own, whose failure takes
--   no other change with it.
--
-- never oversells: it refuses a total below what is allocated, read under the lock; the constraint
--   events_never_oversold is the last line of defense.
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 \
--   -v changes='{"total_tickets": 500}' -f sql/update_event.sql

with wanted as (
    select
        events.id,
        events.allocated_tickets,
        events.total_tickets as old_total,
        coalesce(changes.name, events.name) as name,
        coalesce(changes.date, events.date) as date,
        coalesce(changes.total_tickets, events.total_tickets) as total_tickets
    from events
    cross join jsonb_to_record(:'changes'::jsonb)
        as changes (name varchar, date timestamptz, total_tickets integer)
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

changed_events as (
    update events
    set
        name = wanted.name,
        date = wanted.date,
        total_tickets = wanted.total_tickets,
        version = events.version + 1
    from wanted
    where
        events.id = :'event_id'::uuid
        and events.id = wanted.id
        and wanted.total_tickets >= wanted.allocated_tickets
        and (events.name, events.date, events.total_tickets)
        is distinct from (wanted.name, wanted.date, wanted.total_tickets)
    returning
        events.id, events.version, events.updated_at, events.total_tickets,
        events.allocated_tickets, events.purchased_tickets,
        wanted.total_tickets <> wanted.old_total as is_resized
),

recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        last_event
    )
    select
        changed_events.id as event_id,
        changed_events.version,
        changed_events.updated_at as recorded_at,
        changed_events.total_tickets,
        changed_events.allocated_tickets,
        changed_events.purchased_tickets,
        case
            when changed_events.is_resized then 'resized'::event_change
            else 'updated'::event_change
        end as last_event
    from changed_events
)

select
    case
        when wanted.id is null then 'not_found'
        when wanted.total_tickets < wanted.allocated_tickets - lapsed.tickets
            then 'capacity_below_allocated'
        when wanted.total_tickets < wanted.allocated_tickets then 'more_to_expire'
        else 'granted'
    end as outcome,
    wanted.allocated_tickets - lapsed.tickets as allocated_tickets
-- One row also when there is no such event.
from lapsed
left join wanted on true;
