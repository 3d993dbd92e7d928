-- Group tickets into reservations, count what is purchased, and number an event's versions.
--
-- A reservation is not a table: it is an id that the tickets of one request share, and each ticket
-- has a position in it. A ticket that exists already, or is inserted by hand, is a reservation of
-- its own. An event's version starts at 1 and grows by one with each kind of change that a
-- transaction makes to it.
--
-- While a ticket is held, held_event_id and held_until are its event and the end of its hold;
-- else both are null. They are for the index of 0010_index_holds.
--
-- Each existing ticket needs an id for its reservation, so the table is rewritten, which is also
-- what generated columns need. The constraints are added while it is locked for that anyway.
--
-- Runs while the version before it serves: no, that version does not count what it sells.
-- squawk-ignore-file adding-field-with-default, constraint-missing-not-valid
-- squawk-ignore-file disallowed-unique-constraint
-- depends: 0005_time_ordered_ids

set local lock_timeout = '2s';
set local statement_timeout = '1h';

alter table ticket_allocations
add column reservation_id uuid not null default time_ordered_uuid(),
add column position integer not null default 1,
add column held_event_id uuid
generated always as (case when status = 'reserved' then event_id end) stored,
add column held_until timestamptz
generated always as (case when status = 'reserved' then expires_at end) stored;

-- Each constraint in a command of its own, as Citus wants them.
alter table ticket_allocations
add constraint tickets_are_numbered_from_one check (position >= 1);

-- Orders a reservation's tickets, finds them, and is the last line of defense against one key
-- that reserves twice. Its index is built while the table is locked for the rewrite anyway.
alter table ticket_allocations
add constraint reservations_number_each_ticket_once unique (reservation_id, position);

alter table events
add column purchased_tickets integer not null default 0,
add column version bigint not null default 1;

alter table events
add constraint events_never_purchase_below_zero check (purchased_tickets >= 0);

alter table events
add constraint events_begin_at_version_one check (version >= 1);

-- Count the purchases that exist already.
update events
set purchased_tickets = counted.purchased
from (
    select
        event_id,
        count(*)::integer as purchased
    from ticket_allocations
    where status = 'purchased'
    group by event_id
) as counted
where events.id = counted.event_id;

alter table events add constraint events_purchase_only_what_is_allocated check (
    purchased_tickets <= allocated_tickets
);
