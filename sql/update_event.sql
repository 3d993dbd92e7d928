-- update_event
--
-- Renames, moves or resizes an event; what is not named in the changes stays as it is.
--
-- parameters
--   event_id  uuid
--   changes   jsonb  an object with any of name, date and total_tickets
--
-- returns: one row, outcome and the event's allocated_tickets
--   outcome: granted (also when nothing differs), not_found, capacity_below_allocated
-- locks: nothing more; the event is locked already (lock_events) and its lapsed holds are
--   freed (expire_tickets). A name and date that another event has raise 23505, so this runs
--   in a transaction of its own, which takes no batch with it.
-- never oversells: it refuses a total below what is allocated, read under the lock; behind it
--   stands events_never_oversold
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 \
--   -v changes='{"total_tickets": 500}' -f sql/update_event.sql

with asked as (
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

changed as (
    update events
    set
        name = asked.name,
        date = asked.date,
        total_tickets = asked.total_tickets,
        version = events.version + 1
    from asked
    where
        events.id = asked.id
        and asked.total_tickets >= asked.allocated_tickets
        and (events.name, events.date, events.total_tickets)
        is distinct from (asked.name, asked.date, asked.total_tickets)
    returning events as event, asked.total_tickets <> asked.old_total as is_resized
),

recorded as (
    insert into event_ledger
    select entry.*
    from changed
    cross join lateral ledger_entry(
        changed.event,
        case when changed.is_resized then 'resized' else 'updated' end::event_change,
        0,
        null
    ) as entry
)

select
    case
        when asked.id is null then 'not_found'
        when asked.total_tickets < asked.allocated_tickets then 'capacity_below_allocated'
        else 'granted'
    end as outcome,
    asked.allocated_tickets
from (values (true)) as request (is_made)
left join asked on request.is_made;
