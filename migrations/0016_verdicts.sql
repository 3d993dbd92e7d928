-- Two rules that many statements share, each said once: what a ticket reads as, and whether
-- somebody may take it from hold to wherever it goes next.
--
-- Plain SQL functions of a row of ticket_allocations: PostgreSQL folds them into the statement
-- that calls them, so that they cost nothing and hide nothing from a plan. Both read
-- statement_timestamp(), the clock of the statement that calls them, behind the lock.
--
-- Runs while the version before it serves: yes, it only adds.
-- depends: 0015_hot_rows

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- A hold whose time is up reads expired, whether or not anything has swept it.
create function status_now(ticket ticket_allocations)
returns allocation_status
language sql
stable
parallel safe
as $$
    select
        case
            when ticket.status = 'reserved' and ticket.expires_at <= statement_timestamp()
                then 'expired'
            else ticket.status
        end
$$;

-- Whether a hold may be paid for or given back at somebody's word: granted, or what stands in
-- the way. Who is not the owner is told so whatever the state. No ticket: not_found.
create function hold_verdict(ticket ticket_allocations, asked_by text)
returns text
language sql
stable
parallel safe
as $$
    select
        case
            when ticket.id is null then 'not_found'
            when ticket.user_fingerprint <> asked_by then 'wrong_fingerprint'
            when ticket.status = 'purchased' then 'already_purchased'
            when ticket.status = 'user_cancelled' then 'already_cancelled'
            when ticket.status = 'refunded' then 'already_refunded'
            when status_now(ticket) = 'expired' then 'hold_expired'
            else 'granted'
        end
$$;
