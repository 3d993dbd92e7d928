-- Imports the events and tickets of staging.sql's tables, all of them or none.
--
-- Run it as the owner, in one transaction. Each event gets a ledger as if it had been created
-- empty, all its tickets had been reserved by one transaction, and those that are sold had been
-- paid for by the next. Tickets that came back are rows that count for nothing.
--
-- locks: the new rows only; other events are sold meanwhile
-- never oversells: events_never_oversold refuses more tickets than there are

-- Refuse what no constraint refuses, before anything is written.
do $$
declare
    wrong text;
begin
    select format('ticket %s is of event %s, which is not among the events', old_id, event)
    into wrong
    from moved_tickets
    where event not in (select old_id from moved_events)
    order by old_id
    limit 1;
    if wrong is null then
        select format(
            'event %s has %s sold and %s held by its own count, and %s and %s among the tickets',
            old_id, moved_events.sold, moved_events.held, found.sold, found.held
        )
        into wrong
        from moved_events
        cross join lateral (
            select
                count(*) filter (where status = 'purchased') as sold,
                count(*) filter (where status = 'reserved') as held
            from moved_tickets
            where event = moved_events.old_id
        ) as found
        where (moved_events.sold, moved_events.held) <> (found.sold, found.held)
        order by old_id
        limit 1;
    end if;
    if wrong is null then
        select format('reservation %s of event %s has several owners or keys', reservation, event)
        into wrong
        from moved_tickets
        where reservation is not null
        group by event, reservation
        having count(distinct (fingerprint, coalesce(idempotency_key, ''))) > 1
        order by event, reservation
        limit 1;
    end if;
    if wrong is null then
        select format('the fingerprint or the key of ticket %s cannot be sent over HTTP', old_id)
        into wrong
        from moved_tickets
        where fingerprint !~ '^[!-~]+$' collate "C"
        or idempotency_key !~ '^[!-~]{1,255}$' collate "C"
        order by old_id
        limit 1;
    end if;
    if wrong is not null then
        raise exception '%', wrong using hint = 'Nothing was imported.';
    end if;
end
$$;

update moved_events set id = time_ordered_uuid() where id is null;
update moved_tickets set id = time_ordered_uuid() where id is null;

-- Triggers add version 1 to the ledger, and the secret.
insert into events (id, name, date, total_tickets)
select id, name, date, total_tickets
from moved_events;

-- The id of a reservation with a key is derived from the key and the event's secret.
create temporary table moved_reservations on commit drop as
select
    tickets.event,
    coalesce(tickets.reservation, tickets.old_id) as reservation,
    tickets.reservation is null as is_single,
    events.id as event_id,
    coalesce(
        reservation_id_for_key(
            min(mine.secret::text)::uuid, min(tickets.fingerprint), min(tickets.idempotency_key)
        ),
        time_ordered_uuid()
    ) as id
from moved_tickets as tickets
inner join moved_events as events on tickets.event = events.old_id
inner join event_private as mine on events.id = mine.event_id
group by 1, 2, 3, 4;

analyze moved_events, moved_tickets, moved_reservations;

insert into ticket_allocations (
    id, event_id, user_fingerprint, status, expires_at, created_at, updated_at,
    reservation_id, position
)
select
    tickets.id,
    reservations.event_id,
    tickets.fingerprint,
    tickets.status,
    case when tickets.status <> 'purchased' then tickets.expires_at end as expires_at,
    coalesce(tickets.created_at, statement_timestamp()) as created_at,
    statement_timestamp() as updated_at,
    reservations.id as reservation_id,
    row_number() over (
        partition by reservations.id order by tickets.created_at, tickets.old_id
    ) as position
from moved_tickets as tickets
inner join moved_reservations as reservations
    on
        tickets.event = reservations.event
        and coalesce(tickets.reservation, tickets.old_id) = reservations.reservation
        and (tickets.reservation is null) = reservations.is_single;

-- The counts and the ledger, as the service writes them.
with allocated as (
    update events
    set allocated_tickets = moved.sold + moved.held, version = version + 1
    from moved_events as moved
    where events.id = moved.id and moved.sold + moved.held > 0
    returning events.*, moved.sold + moved.held as tickets
)

insert into event_ledger (
    event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
    reserved, last_event
)
select
    id as event_id,
    version,
    updated_at as recorded_at,
    total_tickets,
    allocated_tickets,
    purchased_tickets,
    tickets as reserved,
    'reserved' as last_event
from allocated;

with purchased as (
    update events
    set purchased_tickets = moved.sold, version = version + 1
    from moved_events as moved
    where events.id = moved.id and moved.sold > 0
    returning events.*, moved.sold as tickets
)

insert into event_ledger (
    event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
    purchased, last_event
)
select
    id as event_id,
    version,
    updated_at as recorded_at,
    total_tickets,
    allocated_tickets,
    purchased_tickets,
    tickets as purchased,
    'purchased' as last_event
from purchased;
