-- The ledger: one row for each committed transaction that changed an event or its counts,
-- with the counts after it and how many tickets it moved of each kind.
--
-- It is append-only for everybody. Whoever puts a count right by hand adds a change, and
-- does not rewrite history; the triggers refuse with an error and never ignore in silence.
-- It carries no rule of its own against overselling: should it ever happen, the ledger is
-- what must be able to say so.
--
-- Runs while the version before it serves: no, that version would leave its changes out.
-- An event that is there already begins with one row that counts what it has by now.
-- depends: 0011_event_private

set local lock_timeout = '2s';
set local statement_timeout = '10min';

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
    -- The last of what it did, and by whom: null for the organiser and for the clock.
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
    using errcode = 'restrict_violation', hint = 'Put the event right; its next change is recorded.';
end
$$;

-- For each statement, not each row: what matches nothing is refused, too.
create trigger event_ledger_is_append_only
before update or delete or truncate on event_ledger
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

-- What is there by now counts as reserved and purchased in the first row, so that the sum of
-- all rows is what the event has.
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
from events;
