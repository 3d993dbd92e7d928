-- list_user_tickets
--
-- Lists somebody's tickets over all events, newest first, a page at a time, with how many there
-- are in all.
--
-- parameters
--   user_fingerprint  text     whose they are
--   status            text     as shown: a hold whose time is up is expired; '' for all
--   page_size         integer
--   skip              bigint   how many to pass over
--
-- returns: total on every row, and a row of ticket_allocations for each on the page; one row
--   with total alone when the page is empty
-- locks: nothing
-- never oversells: it changes no row
--
-- holdfast psql -v user_fingerprint=alice -v status=purchased \
--   -v page_size=10 -v skip=0 -f sql/list_user_tickets.sql

with matched as materialized (
    select
        tickets.id,
        tickets.created_at
    from ticket_allocations as tickets
    where
        tickets.user_fingerprint = :'user_fingerprint'::text
        -- What is shown as expired may be stored as reserved; the index has what is stored.
        and tickets.status = any(
            case :'status'::text
                when '' then enum_range(null::allocation_status)
                when 'expired' then '{reserved, expired}'
                else array[:'status'::text::allocation_status]
            end
        )
        and (:'status'::text = '' or status_now(tickets)::text = :'status'::text)
),

page as (
    select id
    from matched
    order by created_at desc, id desc
    limit :'page_size'::integer
    offset :'skip'::bigint
),

shown as (
    select
        tickets.id,
        tickets.event_id,
        tickets.user_fingerprint,
        status_now(tickets) as status,
        tickets.expires_at,
        tickets.created_at,
        tickets.updated_at,
        tickets.reservation_id,
        tickets.position
    from page
    inner join ticket_allocations as tickets on page.id = tickets.id
)

select
    counted.total,
    shown.*
from (select count(*) as total from matched) as counted
left join shown on true
order by shown.created_at desc, shown.id desc;
