-- list_event_tickets_after
--
-- Lists the tickets of an event that follow one of them, newest first, a page at a time. The order
-- is by values that never change, so that whatever happens between two pages, no ticket is on both
-- and none is passed over.
--
-- parameters
--   event_id   uuid
--   status     text     as shown: a hold whose time is up is expired; '' for all
--   after      uuid     the last ticket of the page before; its status may have changed
--   page_size  integer
--
-- returns: after on every row, and one row of ticket_allocations for each on the page; one row with
--   after alone if the page is empty; no row if after is not a ticket of the event
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v status=purchased \
--   -v after=018f0000-0000-7000-8000-000000000002 -v page_size=10 \
--   -f sql/list_event_tickets_after.sql

with last_shown as (
    select
        tickets.id,
        tickets.created_at
    from ticket_allocations as tickets
    where
        tickets.id = :'after'::uuid
        and tickets.event_id = :'event_id'::uuid
),

page as (
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
    where
        tickets.event_id = :'event_id'::uuid
        and (tickets.created_at, tickets.id) < (
            select
                last_shown.created_at,
                last_shown.id
            from last_shown
        )
        and (
            :'status'::text = ''
            or status_at(tickets.status, tickets.expires_at, statement_timestamp())::text
            = :'status'::text
        )
    order by tickets.created_at desc, tickets.id desc
    limit :'page_size'::integer
)

select
    last_shown.id as after,
    page.*
from last_shown
left join page on true
order by page.created_at desc, page.id desc;
