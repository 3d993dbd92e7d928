-- record_changes
--
-- Closes a batch: gives each event that changed its next version and writes its row of the
-- ledger from the draft that the statements before it have left. What changed nothing is
-- not recorded.
--
-- parameters
--   event_ids        uuid[]  as given to lock_events, and so the next two
--   ticket_ids       uuid[]
--   reservation_ids  uuid[]
--
-- returns: event_id and version, for each event that changed
-- locks: nothing more; the events are locked already (lock_events)
-- never oversells: it moves no ticket. The version grows by one under the event's lock, so
--   that the ledger has one row for each version and no gap.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v ticket_ids='{}' \
--   -v reservation_ids='{}' -f sql/record_changes.sql

with concerned as (
    select unnest(:'event_ids'::uuid[]) as event_id
    union
    select tickets.event_id
    from ticket_allocations as tickets
    where tickets.id = any(:'ticket_ids'::uuid[])
    union
    select tickets.event_id
    from ticket_allocations as tickets
    where tickets.reservation_id = any(:'reservation_ids'::uuid[])
),

drafts as (
    select
        draft.event_id,
        draft.kind,
        draft.actor,
        draft.reserved,
        draft.purchased,
        draft.expired,
        draft.cancelled,
        draft.refunded
    from event_private as draft
    where
        -- An array and no join: each is looked up by its id, however many events there are.
        draft.event_id = any(array(select concerned.event_id from concerned))
        and draft.kind is not null
),

versioned as (
    update events
    set version = events.version + 1
    from drafts
    where events.id = drafts.event_id
    returning
        events.id, events.version, events.updated_at,
        events.total_tickets, events.allocated_tickets, events.purchased_tickets
),

-- updated_at never goes back within an event, and so neither does recorded_at.
recorded as (
    insert into event_ledger (
        event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        reserved, purchased, expired, cancelled, refunded, last_event, actor
    )
    select
        versioned.id,
        versioned.version,
        versioned.updated_at,
        versioned.total_tickets,
        versioned.allocated_tickets,
        versioned.purchased_tickets,
        drafts.reserved,
        drafts.purchased,
        drafts.expired,
        drafts.cancelled,
        drafts.refunded,
        drafts.kind,
        drafts.actor
    from versioned
    inner join drafts on versioned.id = drafts.event_id
    returning event_id, version
),

emptied as (
    update event_private as draft
    set
        kind = null,
        actor = null,
        reserved = 0,
        purchased = 0,
        expired = 0,
        cancelled = 0,
        refunded = 0
    from drafts
    where draft.event_id = drafts.event_id
)

select
    event_id,
    version
from recorded
order by event_id;
