-- Record every version of an event in a ledger: the counts after the change, and how many tickets
-- it moved of each kind.
--
-- The ledger is append-only for everybody; the trigger refuses with an error. To correct a count
-- by hand, add another change; do not rewrite history. The ledger has no constraint of its own
-- against overselling: if it ever happens, the ledger must be able to say so.
--
-- Runs while the version before it serves: no, that version does not record its changes.
-- depends: 0007_event_secrets

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- What can happen to an event and its tickets; the stream uses the same words.
create type event_change as enum (
    'created', 'updated', 'resized',
    'reserved', 'purchased', 'expired', 'user_cancelled', 'refunded'
);

create table event_ledger (
    event_id uuid not null,
    version bigint not null,
    recorded_at timestamptz not null default statement_timestamp(),
    -- The counts after this change.
    total_tickets integer not null,
    allocated_tickets integer not null,
    purchased_tickets integer not null,
    -- How many tickets it moved.
    reserved integer not null default 0,
    purchased integer not null default 0,
    expired integer not null default 0,
    cancelled integer not null default 0,
    refunded integer not null default 0,
    -- What it was, and the short name of the buyer who did it; null for the organizer and the
    -- clock.
    last_event event_change not null,
    actor varchar,

    constraint event_ledger_pkey primary key (event_id, version),
    constraint ledger_rows_belong_to_an_event foreign key (event_id) references events (id),
    constraint ledger_versions_begin_at_one check (version >= 1),
    constraint ledger_moves_are_never_negative check (
        least(reserved, purchased, expired, cancelled, refunded) >= 0
    )
);

create function refuse_to_change_ledger() returns trigger
language plpgsql
set search_path from current
as $$
begin
    raise exception 'the ledger is append-only: % is refused', lower(tg_op)
    using errcode = 'restrict_violation',
        hint = 'Correct the event instead; its next change is recorded.';
end
$$;

-- For each statement and not for each row, so that a statement that matches no row is refused, too.
create trigger event_ledger_is_append_only
before update or delete on event_ledger
for each statement execute function refuse_to_change_ledger();

-- A trigger of its own: Citus gives a worker no trigger that is also for truncate, and so nobody
-- there would refuse the update and the delete either.
create trigger event_ledger_is_never_truncated
before truncate on event_ledger
for each statement execute function refuse_to_change_ledger();

create function open_event_ledger() returns trigger
language plpgsql
set search_path from current
as $$
begin
    insert into event_ledger (
        event_id, version, total_tickets, allocated_tickets, purchased_tickets, last_event
    )
    values (
        new.id, new.version, new.total_tickets, new.allocated_tickets, new.purchased_tickets, 'created'
    );
    return null;
end
$$;

create trigger events_open_ledger
after insert on events
for each row execute function open_event_ledger();

-- The first row of an existing event counts what it has as reserved and purchased, so that the sum
-- of all rows is what the event has.
with existing_events as materialized (
    select
        id,
        version,
        total_tickets,
        allocated_tickets,
        purchased_tickets
    from events
)

insert into event_ledger (
    event_id, version, total_tickets, allocated_tickets, purchased_tickets,
    reserved, purchased, last_event
)
select
    id as event_id,
    version,
    total_tickets,
    allocated_tickets,
    purchased_tickets,
    allocated_tickets as reserved,
    purchased_tickets as purchased,
    'created' as last_event
from existing_events;
