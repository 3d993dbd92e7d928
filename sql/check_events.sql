-- check_events
--
-- Checks the books of every event: its counts against its tickets, its ledger's last row and
-- its ledger's sum. It shows what does not agree; when it shows nothing, all is in order.
--
-- One statement is one snapshot, so that it is right during a sale, too. A hold whose time
-- is up but that nobody has swept yet is still allocated here, as it is in the counts.
--
-- returns: event_id, name, rule, expected, found; a row for each rule that an event breaks
-- locks: nothing
-- never oversells: it changes no row, and tells when anything ever did
--
-- holdfast psql -f sql/check_events.sql

with tickets as (
    select
        event_id,
        count(*) filter (where status in ('reserved', 'purchased')) as allocated,
        count(*) filter (where status = 'purchased') as purchased
    from ticket_allocations
    group by event_id
),

ledger as (
    select
        event_id,
        count(*) as row_count,
        min(version) as first_version,
        max(version) as last_version,
        sum(reserved - expired - cancelled - refunded) as allocated,
        sum(purchased - refunded) as purchased
    from event_ledger
    group by event_id
)

select
    events.id as event_id,
    events.name,
    rules.rule,
    rules.expected,
    rules.found
from events
left join tickets on events.id = tickets.event_id
left join ledger on events.id = ledger.event_id
left join event_private as draft on events.id = draft.event_id
left join event_ledger as latest
    on events.id = latest.event_id and ledger.last_version = latest.version
cross join lateral (
    values
    ('allocated = its tickets', coalesce(tickets.allocated, 0), events.allocated_tickets),
    ('purchased = its tickets', coalesce(tickets.purchased, 0), events.purchased_tickets),
    ('no ticket too many', 0, greatest(tickets.allocated - events.total_tickets, 0)),
    ('version = the ledger''s', ledger.last_version, events.version),
    ('total = the ledger''s', latest.total_tickets, events.total_tickets),
    ('allocated = the ledger''s', latest.allocated_tickets, events.allocated_tickets),
    ('purchased = the ledger''s', latest.purchased_tickets, events.purchased_tickets),
    ('allocated = the ledger''s sum', ledger.allocated, events.allocated_tickets),
    ('purchased = the ledger''s sum', ledger.purchased, events.purchased_tickets),
    (
        'no version is missing',
        ledger.last_version - ledger.first_version + 1,
        ledger.row_count
    ),
    (
        'no draft is left',
        0,
        num_nonnulls(draft.kind, draft.actor) + draft.reserved + draft.purchased
        + draft.expired + draft.cancelled + draft.refunded
    )
) as rules (rule, expected, found)
where rules.expected is distinct from rules.found
order by events.id, rules.rule;
