-- find_tickets
--
-- Finds tickets by id. A hold whose time is up reads expired.
--
-- parameters
--   ticket_ids  uuid[]
--
-- returns: one row of ticket_allocations for each that exists
--
-- holdfast psql -v ticket_ids='{018f0000-0000-7000-8000-000000000002}' \
--   -f sql/find_tickets.sql

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
where tickets.id = any(:'ticket_ids'::uuid[]);
