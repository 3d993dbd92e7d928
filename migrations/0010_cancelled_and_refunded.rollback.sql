-- Loses why a ticket came back: cancelled and refunded ones are told as expired.
--
-- A value cannot be taken out of an enum, so the type is made anew, and with it what names
-- its values: the default, the two checks.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table ticket_allocations
drop constraint reserved_tickets_have_an_end,
drop constraint purchased_tickets_have_no_end,
alter column status drop default;

alter type allocation_status rename to allocation_status_with_cancelled;

create type allocation_status as enum ('reserved', 'purchased', 'expired');

alter table ticket_allocations
alter column status type allocation_status using (
    case
        when status in ('user_cancelled', 'refunded') then 'expired'
        else status::text
    end::allocation_status
);

alter table ticket_allocations
alter column status set default 'reserved',
add constraint reserved_tickets_have_an_end check (
    status <> 'reserved' or expires_at is not null
),
add constraint purchased_tickets_have_no_end check (
    status <> 'purchased' or expires_at is null
);

drop type allocation_status_with_cancelled;
