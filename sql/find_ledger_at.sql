-- find_ledger_at
--
-- Finds what an event's counts were at a moment: the last row that its ledger had by then.
--
-- parameters
--   event_id  uuid
--   at        timestamptz
--
-- returns: a row of event_ledger; none before the event existed
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v at='2030-01-01 20:00+00' \
--   -f sql/find_ledger_at.sql

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
-- Within an event recorded_at never goes back, so the last by version is the last by time.
where event_id = :'event_id'::uuid and recorded_at <= :'at'::timestamptz
order by version desc
limit 1;
