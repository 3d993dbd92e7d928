-- list_news
--
-- Lists, of the events that are watched, those that have changed since they were last read, with
-- the last change of each. One statement serves all watchers of a process.
--
-- parameters: one element of each array for an event
--   event_ids  uuid[]
--   versions   bigint[]  the version that is known already
--
-- returns: the event's row, as committed, and last_event, actor and recorded_at of the last row of
--   its ledger
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v versions='{0}' \
--   -f sql/list_news.sql

select
    events.id,
    events.name,
    events.date,
    events.total_tickets,
    events.allocated_tickets,
    events.created_at,
    events.updated_at,
    events.purchased_tickets,
    events.version,
    events.sale_opens_at,
    events.sale_closes_at,
    events.hold_seconds,
    events.max_hold_seconds,
    events.max_tickets_per_person,
    events.revision,
    events.waiting_tickets,
    sale_status_at(
        events.sale_opens_at, events.sale_closes_at, statement_timestamp()
    ) as sale_status,
    latest.last_event,
    latest.actor,
    latest.recorded_at
from unnest(:'event_ids'::uuid[], :'versions'::bigint[]) as known (event_id, version)
inner join events on known.event_id = events.id and known.version < events.version
cross join lateral (
    select
        ledger.last_event,
        ledger.actor,
        ledger.recorded_at
    from event_ledger as ledger
    where ledger.event_id = events.id and ledger.version = events.version
    limit 1 -- there is one; the limit keeps the planner from joining the whole ledger
) as latest
where events.id = any(:'event_ids'::uuid[]);
