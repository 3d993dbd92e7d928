-- Loses the waiting list of every event. The ledger keeps its versions, but calls who joined or
-- left the line `updated`, and an offer `reserved`.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop aggregate turn_after(integer, integer, integer);
drop function offer_turn(integer[], integer, integer, integer);
drop function entry_state(uuid, timestamptz, timestamptz, boolean, boolean);

alter table event_ledger drop column waiting_tickets;

alter table events drop column waiting_tickets;

drop table waiting_entries;

-- A value cannot be removed from an enum, so the type is made anew.
alter type event_change rename to event_change_with_waiting;

create type event_change as enum (
    'created', 'updated', 'resized',
    'reserved', 'purchased', 'expired', 'user_cancelled', 'refunded'
);

alter table event_ledger alter column last_event type event_change using (
    case last_event::text
        when 'joined' then 'updated'
        when 'left' then 'updated'
        when 'offered' then 'reserved'
        else last_event::text
    end
)::event_change;

drop type event_change_with_waiting;
