-- list_news
--
-- Lists, of the events that somebody watches, those that have changed since they were last
-- looked at, with the last change. One statement for all watchers of a process.
--
-- parameters: one element of each array for an event
--   event_ids  uuid[]
--   versions   bigint[]  the version that is known already
--
-- returns: the event's row, as committed, and its last ledger row's last_event, actor and
--   recorded_at
-- locks: nothing
-- never oversells: it changes no row
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
    latest.last_event,
    latest.actor,
    latest.recorded_at
from unnest(:'event_ids'::uuid[], :'versions'::bigint[]) as known (event_id, version)
inner join events on known.event_id = events.id and known.version < events.version
inner join event_ledger as latest
    on events.id = latest.event_id and events.version = latest.version;
