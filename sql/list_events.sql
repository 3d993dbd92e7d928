-- list_events
--
-- Lists events by date, a page at a time, with the number of all that match. The counts are as in
-- find_events.
--
-- parameters
--   dates        tstzrange  from and to, as '[2030-01-01, 2031-01-01)'; '(,)' for all
--   q            text       a part of the name, in any case and normal form; '' for all
--   available    boolean    true: only those on sale with a ticket available and nobody waiting;
--                           false: all
--   sale_status  text       upcoming, open or closed; '' for all
--   page_size    integer
--   skip         bigint     how many to pass over
--
-- returns: total on every row, and one row of events for each on the page; one row with total alone
--   if the page is empty
--
-- holdfast psql -v dates='(,)' -v q='' -v available=false -v sale_status='' -v page_size=10 \
--   -v skip=0 -f sql/list_events.sql

with matched as materialized (
    select
        events.id,
        events.date
    from events
    where
        events.date <@ :'dates'::tstzrange
        and :'sale_status'::text in (
            '', sale_status_at(events.sale_opens_at, events.sale_closes_at, statement_timestamp())
        )
        and (
            :'q'::text = ''
            or strpos(name_for_search(events.name), (select name_for_search(:'q'::text))) > 0
        )
        and (
            not :'available'::boolean
            or sale_status_at(events.sale_opens_at, events.sale_closes_at, statement_timestamp())
            = 'open'
            and events.waiting_tickets = 0
            and (
                events.allocated_tickets < events.total_tickets
                or exists (
                    select
                    from ticket_allocations as tickets
                    where
                        tickets.held_event_id = events.id
                        and tickets.held_until <= statement_timestamp()
                )
            )
        )
),

page as (
    select id
    from matched
    order by date, id
    limit :'page_size'::integer
    offset :'skip'::bigint
),

shown as (
    select
        events.id,
        events.name,
        events.date,
        events.total_tickets,
        events.allocated_tickets - lapsed.tickets as allocated_tickets,
        events.created_at,
        events.updated_at,
        events.purchased_tickets,
        events.version,
        events.sale_opens_at,
        events.sale_closes_at,
        events.hold_seconds,
        events.max_hold_seconds,
        events.max_tickets_per_person,
        events.revision,
        events.waiting_tickets,
        sale_status_at(
            events.sale_opens_at, events.sale_closes_at, statement_timestamp()
        ) as sale_status
    from page
    inner join events on page.id = events.id
    cross join lateral (
        select count(*)::integer as tickets
        from ticket_allocations as tickets
        where
            tickets.held_event_id = events.id
            and tickets.held_until <= statement_timestamp()
    ) as lapsed
)

select
    counted.total,
    shown.*
from (select count(*) as total from matched) as counted
left join shown on true
order by shown.date, shown.id;
