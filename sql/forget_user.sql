-- forget_user
--
-- Replaces a user's fingerprint on all their tickets of one event. The event is locked already
-- (lock_events), so no other change of these tickets is under way.
--
-- parameters
--   event_id          uuid
--   user_fingerprint  text  the user to forget
--   replacement       text  the fingerprint to store instead; nobody knows it
--
-- returns: tickets, how many there were
--
-- locks: the tickets. The service's own role may not run this: it has no right to change the owner
--   of a ticket.
--
-- never oversells: it changes the owner of tickets, not their status and no count.
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
