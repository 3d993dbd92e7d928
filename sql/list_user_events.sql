-- list_user_events
--
-- Lists the events of which a user has, or ever had, tickets, or waits or ever waited for some.
--
-- parameters
--   user_fingerprint  text
--
-- returns: event_id, in order
--
-- holdfast psql -v user_fingerprint=alice -f sql/list_user_events.sql

select event_id
from ticket_allocations
where user_fingerprint = :'user_fingerprint'::text

union

select event_id
from waiting_entries
where user_fingerprint = :'user_fingerprint'::text
order by event_id;
