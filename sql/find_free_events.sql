-- find_free_events
--
-- Finds those events that nobody has locked just now. When a batch could not have all its
-- locks in time, this tells who is to blame, so that only that event is set apart.
--
-- parameters
--   event_ids  uuid[]
--
-- returns: the id of each event that exists and could be locked
-- locks: rows of events, for update, in the order of their ids, passing over what is locked:
--   it never waits, and as a transaction of its own it has let go when it returns
-- never oversells: it changes no row, and nothing is decided on what it returns
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' \
--   -f sql/find_free_events.sql

select events.id
from events
where events.id = any(:'event_ids'::uuid[])
order by events.id
for update skip locked;
