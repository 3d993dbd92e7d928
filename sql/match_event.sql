-- match_event
--
-- Ends the transaction with error HF412 unless the event is in one of the states that the request
-- names: those of the ETags in its header If-Match. It runs between lock_events and expire_tickets:
-- after the lock, so that nothing changes the state any more, and before anything expires, so that
-- the state is the one that every reader sees, with holds whose time is up counted as available.
--
-- parameters: one element of each array for an ETag
--   event_id           uuid
--   versions           bigint[]
--   available_tickets  integer[]
--   updated_at         timestamptz[]
--   sale_statuses      text[]
--
-- returns: one row if the event is in one of these states; none if it does not exist
--
-- holdfast psql -v event_id=018f0000-0000-7000-8000-000000000001 -v versions='{1}' \
--   -v available_tickets='{10}' -v updated_at='{2030-01-01 20:00+00}' -v sale_statuses='{open}' \
--   -f sql/match_event.sql

select
    refuse_unless(exists (
        select
        from unnest(
            :'versions'::bigint[],
            :'available_tickets'::integer[],
            :'updated_at'::timestamptz[],
            :'sale_statuses'::text[]
        ) as named (version, available_tickets, updated_at, sale_status)
        where
            named.version = events.version
            and named.available_tickets
            = events.total_tickets - events.allocated_tickets + lapsed.tickets
            and named.updated_at = events.updated_at
            and named.sale_status = sale_status_at(
                events.sale_opens_at, events.sale_closes_at, statement_timestamp()
            )
    )) as is_matched
from events
cross join lateral (
    select count(*)::integer as tickets
    from ticket_allocations as tickets
    where
        tickets.held_event_id = events.id
        and tickets.held_until <= statement_timestamp()
) as lapsed
where events.id = :'event_id'::uuid;
