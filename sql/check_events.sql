-- check_events
--
-- Audits events: the counts against the tickets, the ledger's last row and the ledger's sum; that
-- no version is missing and each follows from the one before; and what constraints enforce, as if
-- there were none. One statement has one snapshot, so it is right during a sale, too.
--
-- parameters
--   event_ids    uuid[]   '{}' for all
--   failed_only  boolean  true: only the checks that fail
--
-- returns: one row for each check: event_id, name, rule, expected and found, which are the same
--   where all is in order
--
-- holdfast psql -v event_ids='{}' -v failed_only=true -f sql/check_events.sql

with audited as not materialized (
    select
        id,
        name,
        total_tickets,
        allocated_tickets,
        purchased_tickets,
        waiting_tickets,
        version
    from events
    where :'event_ids'::uuid[] = '{}' or id = any(:'event_ids'::uuid[])
),

tickets as (
    select
        event_id,
        count(*) filter (where status in ('reserved', 'purchased')) as allocated,
        count(*) filter (where status = 'purchased') as purchased,
        count(*) filter (where status = 'reserved' and expires_at is null) as endless,
        count(*) filter (where status = 'purchased' and expires_at is not null) as ending
    from ticket_allocations
    where event_id in (select audited.id from audited)
    group by event_id
),

lines as (
    select
        event_id,
        sum(quantity) filter (where waiting_event_id is not null) as waiting
    from waiting_entries
    where event_id in (select audited.id from audited)
    group by event_id
),

-- Offers whose reservation is not as large as the entry wanted.
offers as (
    select
        entries.event_id,
        count(*) as wrong
    from waiting_entries as entries
    where
        entries.event_id in (select audited.id from audited)
        and entries.reservation_id is not null
        and entries.quantity <> (
            select count(*)
            from ticket_allocations as tickets
            where tickets.reservation_id = entries.reservation_id
        )
    group by entries.event_id
),

steps as (
    select
        now.event_id,
        now.version,
        now.recorded_at,
        now.allocated_tickets,
        now.purchased_tickets,
        now.reserved,
        now.purchased,
        now.expired,
        now.cancelled,
        now.refunded,
        now.waiting_tickets,
        now.last_event,
        lag(now.allocated_tickets, 1, 0) over earlier as allocated_before,
        lag(now.purchased_tickets, 1, 0) over earlier as purchased_before,
        lag(now.recorded_at) over earlier as recorded_before
    from event_ledger as now
    where now.event_id in (select audited.id from audited)
    window earlier as (partition by now.event_id order by now.version)
),

ledger as (
    select
        event_id,
        count(*) as row_count,
        max(version) as version,
        sum(reserved - expired - cancelled - refunded) as allocated,
        sum(purchased - refunded) as purchased,
        count(*) filter (
            where allocated_before + reserved - expired - cancelled - refunded
            <> allocated_tickets or purchased_before + purchased - refunded <> purchased_tickets
        ) as wrong,
        count(*) filter (where recorded_at < recorded_before) as back,
        count(*) filter (
            where waiting_tickets > 0 and reserved > 0 and last_event <> 'offered'
        ) as jumped
    from steps
    group by event_id
)

select
    audited.id as event_id,
    audited.name,
    rules.rule,
    rules.expected,
    rules.found
from audited
left join tickets on audited.id = tickets.event_id
left join ledger on audited.id = ledger.event_id
left join lines on audited.id = lines.event_id
left join offers on audited.id = offers.event_id
left join event_private as mine on audited.id = mine.event_id
left join event_ledger as latest
    on audited.id = latest.event_id and ledger.version = latest.version
cross join lateral (
    values
    ('allocated = its tickets', coalesce(tickets.allocated, 0), audited.allocated_tickets),
    ('purchased = its tickets', coalesce(tickets.purchased, 0), audited.purchased_tickets),
    ('no ticket too many', 0, greatest(tickets.allocated - audited.total_tickets, 0)),
    ('no hold without an end', 0, coalesce(tickets.endless, 0)),
    ('no purchase with an end', 0, coalesce(tickets.ending, 0)),
    ('version = the ledger''s', ledger.version, audited.version),
    ('total = the ledger''s', latest.total_tickets, audited.total_tickets),
    ('allocated = the ledger''s', latest.allocated_tickets, audited.allocated_tickets),
    ('purchased = the ledger''s', latest.purchased_tickets, audited.purchased_tickets),
    ('allocated = the ledger''s sum', ledger.allocated, audited.allocated_tickets),
    ('purchased = the ledger''s sum', ledger.purchased, audited.purchased_tickets),
    ('waiting = its entries', coalesce(lines.waiting, 0), audited.waiting_tickets),
    ('waiting = the ledger''s', latest.waiting_tickets, audited.waiting_tickets),
    ('no offer in part', 0, coalesce(offers.wrong, 0)),
    ('nobody jumped the line', 0, ledger.jumped),
    ('no version is missing', ledger.version, ledger.row_count),
    ('each version follows from the last', 0, ledger.wrong),
    ('no version goes back in time', 0, ledger.back),
    ('one secret', 1, num_nonnulls(mine.secret))
) as rules (rule, expected, found)
where not :'failed_only'::boolean or rules.expected is distinct from rules.found
order by audited.id, rules.rule;
