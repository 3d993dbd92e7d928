-- find_waiting_entries
--
-- Finds entries of waiting lists, with what has become of them and how many are ahead.
--
-- parameters
--   entry_ids  uuid[]
--
-- returns: a row for each entry that exists
--   id, event_id, user_fingerprint, quantity, reservation_id, created_at, updated_at
--   state             waiting, offered, fulfilled, lapsed or left, by the clock
--   entries_ahead     how many wait before it; null unless it waits
--   tickets_ahead     how many tickets they want
--   offer_expires_at  of an open offer: when the first of its holds ends
--
-- It goes once through the line of each event, however many of its entries are asked for.
--
-- holdfast psql -v entry_ids='{018f0000-0000-7000-8000-000000000003}' \
--   -f sql/find_waiting_entries.sql

with asked as (
    select
        id,
        event_id,
        position,
        user_fingerprint,
        quantity,
        reservation_id,
        left_at,
        unservable_at,
        created_at,
        updated_at,
        waiting_event_id
    from waiting_entries
    where id = any(:'entry_ids'::uuid[])
),

line as (
    select
        waiting_event_id,
        position,
        row_number() over before_it - 1 as entries_ahead,
        sum(quantity) over before_it - quantity as tickets_ahead
    from waiting_entries
    where
        waiting_event_id = any(array(select asked.waiting_event_id from asked))
    window before_it as (
        partition by waiting_event_id
        order by position
        rows between unbounded preceding and current row
    )
)

select
    asked.id,
    asked.event_id,
    asked.user_fingerprint,
    asked.quantity,
    asked.reservation_id,
    asked.created_at,
    asked.updated_at,
    entry_state(
        asked.reservation_id, asked.left_at, asked.unservable_at,
        offer.is_held, offer.is_purchased
    ) as state,
    line.entries_ahead,
    line.tickets_ahead,
    case when asked.left_at is null then offer.expires_at end as offer_expires_at
from asked
left join line on asked.waiting_event_id = line.waiting_event_id and asked.position = line.position
cross join lateral (
    select
        coalesce(bool_or(tickets.held_until > statement_timestamp()), false) as is_held,
        coalesce(bool_or(tickets.status in ('purchased', 'refunded')), false) as is_purchased,
        min(tickets.held_until) filter (where tickets.held_until > statement_timestamp())
            as expires_at
    from ticket_allocations as tickets
    where tickets.reservation_id = asked.reservation_id
) as offer;
