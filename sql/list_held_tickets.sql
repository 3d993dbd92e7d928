-- list_held_tickets
--
-- Lists who holds tickets of an event, and for how long: what expires next comes first.
--
-- parameters
--   event_id  uuid
--   most      integer  how many at most
--
-- returns: ticket_id, reservation_id, user_fingerprint, expires_at and time_left, which is negative
--   for a hold that is over and has not been swept
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v most=20 \
--   -f sql/list_held_tickets.sql

select
    tickets.id as ticket_id,
    tickets.reservation_id,
    tickets.user_fingerprint,
    tickets.expires_at,
    date_trunc('second', tickets.expires_at - statement_timestamp()) as time_left
from ticket_allocations as tickets
where tickets.held_event_id = :'event_id'::uuid
order by tickets.held_until, tickets.id
limit :'most'::integer;
