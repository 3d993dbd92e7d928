-- Let people wait in line for tickets of an event, and count how many tickets they want.
--
-- An entry waits until it gets an offer (reservation_id, an ordinary reservation of its whole
-- quantity), its person leaves (left_at), or it turns out that it cannot be served
-- (unservable_at). What became of an offer is read from its tickets.
--
-- Runs while the version before it serves: no, that version gives tickets to people outside the
-- line, and counts nobody who waits.
-- squawk-ignore-file adding-field-with-default, constraint-missing-not-valid
-- squawk-ignore-file require-concurrent-index-creation, adding-foreign-key-constraint
-- squawk-ignore-file require-enum-value-ordering
-- depends: 0013_transfer_tickets

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter type event_change add value 'joined';

alter type event_change add value 'left';

alter type event_change add value 'offered';

create table waiting_entries (
    id uuid not null default time_ordered_uuid(),
    event_id uuid not null,
    -- In the order of the line; each event counts from 1.
    position integer not null,
    user_fingerprint varchar not null,
    quantity integer not null,
    reservation_id uuid,
    left_at timestamptz,
    unservable_at timestamptz,
    created_at timestamptz not null default statement_timestamp(),
    updated_at timestamptz not null default statement_timestamp(),
    -- While the entry waits, its event; else null.
    waiting_event_id uuid generated always as (
        case
            when reservation_id is null and left_at is null and unservable_at is null then event_id
        end
    ) stored,

    constraint waiting_entries_pkey primary key (id),
    constraint entries_belong_to_an_event foreign key (event_id) references events (id),
    constraint entries_have_an_order unique (event_id, position),
    constraint entries_are_numbered_from_one check (position >= 1),
    constraint entries_want_a_ticket check (quantity >= 1),
    constraint entries_have_an_owner check (char_length(user_fingerprint) between 1 and 512)
);

-- The line of an event: the first who want so many tickets.
create index idx_waiting_entries_line on waiting_entries (waiting_event_id, quantity, position)
where waiting_event_id is not null;

-- The line in its order, with what those before an entry want.
create index idx_waiting_entries_order on waiting_entries (waiting_event_id, position)
include (quantity) where waiting_event_id is not null;

-- Who was offered tickets, in the order of the line: what has passed an entry.
create index idx_waiting_entries_offered on waiting_entries (event_id, position)
include (quantity) where reservation_id is not null;

create index idx_waiting_entries_reservation_id on waiting_entries (reservation_id)
where reservation_id is not null;

-- A person's entries: one of an event waits at a time.
create index idx_waiting_entries_user_fingerprint on waiting_entries (user_fingerprint, event_id);

create trigger waiting_entries_touch_updated_at
before update on waiting_entries
for each row execute function touch_updated_at();

alter table events add column waiting_tickets integer not null default 0;

alter table events
add constraint lines_never_want_below_zero check (waiting_tickets >= 0);

-- The events that have a line, for the sweeper.
create index idx_events_waiting on events (id) where waiting_tickets > 0;

alter table event_ledger add column waiting_tickets integer not null default 0;

-- The state of an entry at a moment: whether tickets of its offer are held, and whether one is or
-- was purchased, is known to who calls it.
create function entry_state(
    reservation_id uuid, left_at timestamptz, unservable_at timestamptz, is_held boolean,
    is_purchased boolean
)
returns text
language sql
immutable
parallel safe
as $$
    select
        case
            when left_at is not null then 'left'
            when unservable_at is not null then 'lapsed'
            when reservation_id is null then 'waiting'
            when is_held then 'offered'
            when is_purchased then 'fulfilled'
            else 'lapsed'
        end
$$;

-- One entry of the line, in its order: it is offered its tickets if they are available and nobody
-- before it blocks the line.
--
-- turn has two numbers: the tickets that are still available, and how many more tickets may pass
-- those who were passed over so far. An entry that is passed over lets pass as many as it wants,
-- less those that have passed it before (passed). At 0 it blocks the line.
create function offer_turn(turn integer[], available integer, quantity integer, passed integer)
returns integer[]
language plpgsql
immutable
parallel safe
as $$
begin
    turn := coalesce(turn, array[available, 2147483647]);
    if turn[2] <= 0 then
        return turn;
    elsif quantity <= turn[1] then
        return array[turn[1] - quantity, turn[2] - quantity];
    else
        return array[turn[1], least(turn[2], quantity - passed)];
    end if;
end
$$;

-- The turn after each entry of a line.
create aggregate turn_after(available integer, quantity integer, passed integer) ( -- noqa: LT01
    sfunc = offer_turn,
    stype = _int4, -- integer[], whose brackets sqlfluff cannot parse here
    parallel = safe
);
