-- list_waiting_entries
--
-- Lists the entries of an event's waiting list, in the order of the line, a page at a time.
--
-- parameters
--   event_id   uuid
--   state      text     waiting, offered, fulfilled, lapsed or left; '' for all
--   after      uuid     list those behind this entry; null, or a UUID that no entry has: from the
--                       beginning
--   page_size  integer
--
-- returns: is_known, whether `after` is an entry of this event (or null), on every row; with it a
--   row for each entry on the page, as from find_waiting_entries, or one row with is_known alone
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v state=offered \
--   -v after=018f0000-0000-7000-8000-000000000003 -v page_size=10 -f sql/list_waiting_entries.sql

with cursor_entry as (
    select position
    from waiting_entries
    where id = :'after'::uuid and event_id = :'event_id'::uuid
),

matched as (
    select
        entries.id,
        entries.event_id,
        entries.position,
        entries.user_fingerprint,
        entries.quantity,
        entries.reservation_id,
        entries.created_at,
        entries.updated_at,
        entries.waiting_event_id,
        entry_state(
            entries.reservation_id, entries.left_at, entries.unservable_at,
            offer.is_held, offer.is_purchased
        ) as state,
        case when entries.left_at is null then offer.expires_at end as offer_expires_at
    from waiting_entries as entries
    cross join lateral (
        select
            coalesce(bool_or(tickets.held_until > statement_timestamp()), false) as is_held,
            coalesce(bool_or(tickets.status in ('purchased', 'refunded')), false) as is_purchased,
            min(tickets.held_until) filter (where tickets.held_until > statement_timestamp())
                as expires_at
        from ticket_allocations as tickets
        where tickets.reservation_id = entries.reservation_id
    ) as offer
    where
        entries.event_id = :'event_id'::uuid
        and entries.position > coalesce((select cursor_entry.position from cursor_entry), 0)
        and (:'state'::text <> 'waiting' or entries.waiting_event_id = :'event_id'::uuid)
        -- Among thousands of offers that are over, only those with held tickets are looked at. An
        -- array is looked up by index.
        and (
            :'state'::text <> 'offered'
            or entries.reservation_id = any(array(
                select held.reservation_id
                from ticket_allocations as held
                where
                    held.held_event_id = :'event_id'::uuid
                    and held.held_until > statement_timestamp()
            ))
        )
),

-- Who waits is known without a look at the state: else the planner expects few of them, and reads
-- the whole line for a page.
page as (
    select *
    from matched
    where :'state'::text in ('', 'waiting', state)
    order by position
    limit :'page_size'::integer
),

-- What is ahead of those on the page that wait: what waits before the first of them, and then one
-- after the other.
line as (
    select
        position,
        row_number() over before_it - 1 as entries_ahead,
        sum(quantity) over before_it - quantity as tickets_ahead
    from waiting_entries
    where
        waiting_event_id = :'event_id'::uuid
        and position <= (select max(page.position) from page)
    window before_it as (order by position rows between unbounded preceding and current row)
),

shown as (
    select
        page.id,
        page.event_id,
        page.user_fingerprint,
        page.quantity,
        page.reservation_id,
        page.created_at,
        page.updated_at,
        page.state,
        line.entries_ahead,
        line.tickets_ahead,
        page.offer_expires_at,
        page.position as place
    from page
    left join line on page.waiting_event_id is not null and page.position = line.position
)

select
    :'after'::uuid is null or exists (select from cursor_entry) as is_known,
    shown.id,
    shown.event_id,
    shown.user_fingerprint,
    shown.quantity,
    shown.reservation_id,
    shown.created_at,
    shown.updated_at,
    shown.state,
    shown.entries_ahead,
    shown.tickets_ahead,
    shown.offer_expires_at
from (values (true)) as request (is_made)
left join shown on request.is_made
order by shown.place;
