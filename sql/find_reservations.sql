-- find_reservations
--
-- Finds the tickets of reservations. A hold whose time is up reads expired.
--
-- parameters
--   reservation_ids  uuid[]
--
-- returns: one row of ticket_allocations for each ticket, by reservation and position; none for a
--   reservation that does not exist
--
-- holdfast psql -v reservation_ids='{018f0000-0000-7000-8000-000000000003}' \
--   -f sql/find_reservations.sql

select
    tickets.id,
    tickets.event_id,
    tickets.user_fingerprint,
    status_at(tickets.status, tickets.expires_at, statement_timestamp()) as status,
    tickets.expires_at,
    tickets.created_at,
    tickets.updated_at,
    tickets.reservation_id,
    tickets.position
from ticket_allocations as tickets
where tickets.reservation_id = any(:'reservation_ids'::uuid[])
order by tickets.reservation_id, tickets.position;
