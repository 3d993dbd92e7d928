-- forget_user
--
-- Replaces a user's fingerprint on all their tickets of one event, and on their entries in its
-- waiting list. The event is locked already (lock_events), so no other change of them is under way.
--
-- parameters
--   event_id          uuid
--   user_fingerprint  text  the user to forget
--   replacement       text  the fingerprint to store instead; nobody knows it
--
-- returns: tickets, how many there were
--
-- locks: the tickets and the entries. The service's own role may not run this: it has no right to
--   change the person of an entry.
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
),

forgotten_entries as (
    update waiting_entries
    set user_fingerprint = :'replacement'::text
    where
        event_id = :'event_id'::uuid
        and user_fingerprint = :'user_fingerprint'::text
)

select count(*) as tickets
from forgotten;
