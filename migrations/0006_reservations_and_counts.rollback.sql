-- Loses the versions, and which tickets were reserved together, and with that the replays of
-- idempotency keys. The purchases are counted again on the way up.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table events
drop column version,
drop column purchased_tickets;

alter table ticket_allocations
drop column held_until,
drop column held_event_id,
drop column position,
drop column reservation_id;
