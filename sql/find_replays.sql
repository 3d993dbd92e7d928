-- find_replays
--
-- Finds the tickets that idempotency keys have reserved, as they are now, for the requests of a
-- batch that carry a key. It runs after reserve_tickets, in the same transaction and with the same
-- arrays, so it also finds what that has just reserved.
--
-- parameters: one element of each array for a request, in the order of arrival
--   event_ids          uuid[]
--   quantities         integer[]
--   user_fingerprints  text[]
--   idempotency_keys   text[]     '' for none
--
-- returns: for each request with a key one row for each ticket of the key's reservation
--   request  from 1, in the order of arrival
--   outcome  replayed, or idempotency_key_reused if the key has reserved another quantity
--   id, …    the ticket
--
-- holdfast psql -v event_ids='{018f0000-0000-7000-8000-000000000001}' -v quantities='{2}' \
--   -v user_fingerprints='{alice}' -v idempotency_keys='{order-1}' -f sql/find_replays.sql

with requests as (
    select
        requests.request,
        requests.quantity,
        reservation_id_for_key(
            secrets.secret, requests.user_fingerprint, requests.idempotency_key
        ) as reservation_id
    from unnest(
        :'event_ids'::uuid[],
        :'quantities'::integer[],
        :'user_fingerprints'::text[],
        :'idempotency_keys'::text[]
    ) with ordinality as requests (
        event_id, quantity, user_fingerprint, idempotency_key, request
    )
    inner join event_private as secrets on requests.event_id = secrets.event_id
    where
        requests.idempotency_key <> ''
        and secrets.event_id = any(:'event_ids'::uuid[])
)

select
    requests.request,
    case
        when count(*) over (partition by requests.request) = requests.quantity then 'replayed'
        else 'idempotency_key_reused'
    end as outcome,
    tickets.id,
    tickets.event_id,
    tickets.user_fingerprint,
    status_at(tickets.status, tickets.expires_at, statement_timestamp()) as status,
    tickets.expires_at,
    tickets.created_at,
    tickets.updated_at,
    tickets.reservation_id,
    tickets.position
from requests
inner join ticket_allocations as tickets on requests.reservation_id = tickets.reservation_id
where tickets.reservation_id = any(array(select requests.reservation_id from requests))
order by requests.request, tickets.position;
