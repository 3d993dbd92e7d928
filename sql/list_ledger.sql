-- list_ledger
--
-- Lists an event's ledger: one row for each version.
--
-- parameters
--   event_id   uuid
--   after      bigint   list the versions behind this one; 0 for the first page
--   page_size  integer
--
-- returns: rows of event_ledger, in the order of their versions
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v after=0 \
--   -v page_size=100 -f sql/list_ledger.sql

select
    event_id,
    version,
    recorded_at,
    total_tickets,
    allocated_tickets,
    purchased_tickets,
    reserved,
    purchased,
    expired,
    cancelled,
    refunded,
    last_event,
    actor,
    waiting_tickets
from event_ledger
where event_id = :'event_id'::uuid and version > :'after'::bigint
order by version
limit :'page_size'::integer;
