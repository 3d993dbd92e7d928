-- find_unlocked_events
--
-- Finds which of some events are not locked at the moment. When a batch did not get all its locks
-- in time, this tells which events are to blame, so that only those get a lane of their own.
--
-- parameters
--   event_ids  uuid[]
--
-- returns: the id of each event that exists and could be locked
--
-- locks: rows of events, for update, in the order of their ids, passing over those that are locked.
--   It never waits, and its transaction ends with it.
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' \
--   -f sql/find_unlocked_events.sql

select events.id
from events
where events.id = any(:'event_ids'::uuid[])
order by events.id
for update skip locked;
