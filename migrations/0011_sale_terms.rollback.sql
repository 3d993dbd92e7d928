-- Loses the terms of every event: sales that have not opened or have closed sell at once, holds
-- last as long as the service's setting, and nobody is limited.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop function refuse_unless(boolean);
drop function hold_end(timestamptz, integer);
drop function sale_status_at(timestamptz, timestamptz, timestamptz);

alter table events
drop column revision,
drop column max_tickets_per_person,
drop column max_hold_seconds,
drop column hold_seconds,
drop column sale_closes_at,
drop column sale_opens_at;
