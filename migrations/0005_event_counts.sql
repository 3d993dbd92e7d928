-- What an event counts beside its allocated tickets: how many of them are paid for, and how
-- many committed transactions changed it (its version, from 1, without a gap).
--
-- Runs while the version before it serves: no, that version would not count what it sells.
-- depends: 0004_updated_at

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table events
add column purchased_tickets integer not null default 0
constraint events_never_purchase_below_zero check (purchased_tickets >= 0),
add column version bigint not null default 1
constraint events_begin_at_version_one check (version >= 1);

-- Purchases that are there already.
update events
set purchased_tickets = counted.purchased
from (
    select
        event_id,
        count(*)::integer as purchased
    from ticket_allocations
    where status = 'purchased'
    group by event_id
) as counted
where events.id = counted.event_id;

-- The events are few, and this transaction has them locked as it is.
-- squawk-ignore constraint-missing-not-valid
alter table events add constraint events_purchase_only_what_is_allocated check (
    purchased_tickets <= allocated_tickets
);
