-- find_repeats
--
-- Finds, for the requests of a batch that carry a key, the tickets the key has reserved, as
-- they now stand. It follows reserve_tickets in the same transaction, with the same arrays,
-- and so also finds what that has just reserved.
--
-- parameters: one element of each array for a request, in the order of arrival
--   event_ids          uuid[]
--   quantities         integer[]
--   user_fingerprints  text[]
--   idempotency_keys   text[]  '' for none: no row
-- returns: request (from 1), outcome, and a row for each ticket of the key's reservation
--   outcome: replayed, idempotency_key_reused (the key stands for another quantity)
-- locks: nothing more; lock_events has the events
-- never oversells: it changes no row
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{alice}' -v idempotency_keys='{order-1}' -f sql/find_repeats.sql

with asked as (
    select
        asked.request,
        asked.quantity,
        reservation_id_for_key(
            mine.secret, asked.user_fingerprint, asked.key
        ) as reservation_id
    from unnest(
        :'event_ids'::uuid[], :'quantities'::integer[],
        :'user_fingerprints'::text[], :'idempotency_keys'::text[]
    ) with ordinality as asked (event_id, quantity, user_fingerprint, key, request)
    inner join event_private as mine on asked.event_id = mine.event_id
    where asked.key <> ''
)

select
    asked.request,
    case
        when count(*) over (partition by asked.request) = asked.quantity then 'replayed'
        else 'idempotency_key_reused'
    end as outcome,
    tickets.id,
    tickets.event_id,
    tickets.user_fingerprint,
    status_now(tickets) as status,
    tickets.expires_at,
    tickets.created_at,
    tickets.updated_at,
    tickets.reservation_id,
    tickets.position
from asked
inner join ticket_allocations as tickets on asked.reservation_id = tickets.reservation_id
order by asked.request, tickets.position;
