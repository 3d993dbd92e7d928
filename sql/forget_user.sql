-- forget_user
--
-- Puts another fingerprint in the place of somebody's, on all their tickets of one event. The
-- event is locked already (lock_events), so that no change of these tickets is under way.
--
-- parameters
--   event_id          uuid
--   user_fingerprint  text  who is forgotten
--   replacement       text  what stands there from now on: nobody's
--
-- returns: tickets, how many there were
-- locks: the tickets; not for the service's own role, which may not change whose a ticket is
-- never oversells: it changes whose the tickets are, and neither their status nor a count
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v user_fingerprint=alice \
--   -v replacement=nobody -f sql/forget_user.sql

with forgotten as (
    update ticket_allocations
    set user_fingerprint = :'replacement'::text
    where
        event_id = :'event_id'::uuid
        and user_fingerprint = :'user_fingerprint'::text
    returning id
)

select count(*) as tickets
from forgotten;
