-- Create the functions that several statements of sql/ share, so that each rule stands once.
--
-- None of them reads a table, takes a row, or calls another of them, and all but the clock's value
-- are immutable: PostgreSQL puts their text into the statement that calls them, so that they cost
-- nothing and hide nothing from the planner, and Citus can run them where the event lives.
--
-- Runs while the version before it serves: yes, it only adds.
-- depends: 0008_event_ledger

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- The status of a ticket at a moment: a hold whose time is up is expired, whether or not it has
-- been swept.
create function status_at(status allocation_status, expires_at timestamptz, at timestamptz)
returns allocation_status
language sql
immutable
parallel safe
as $$
    select case when status = 'reserved' and expires_at <= at then 'expired' else status end
$$;

-- Whether a ticket is held at a moment, and so can be paid for or cancelled: granted, or what it
-- is instead.
create function hold_outcome(status allocation_status, expires_at timestamptz, at timestamptz)
returns text
language sql
immutable
parallel safe
as $$
    select
        case
            when status = 'purchased' then 'already_purchased'
            when status = 'user_cancelled' then 'already_cancelled'
            when status = 'refunded' then 'already_refunded'
            when status = 'expired' or expires_at <= at then 'hold_expired'
            else 'granted'
        end
$$;

-- An id derived from a time-ordered UUID: the nth ticket of a request or, with 0, its reservation.
--
-- A batch generates one random UUID, its seed, and derives all its ids from it, because
-- gen_random_uuid() asks the operating system each time: two ids for each ticket were a fifth of
-- what a ticket cost. The id has the seed's time and 72 bits of a hash. The seed is stored nowhere,
-- so somebody who knows some ids of a batch cannot compute the others. A UUID of version 7 leaves
-- these bits free (RFC 9562, section 6.2); digits 13 and 17 are its version and variant. The
-- numbers are cast to text because || with a number is only stable.
create function derived_id(seed uuid, request bigint, nth integer) returns uuid
language sql
immutable
parallel safe
as $$
    select
        (
            left(seed::text, 14) || overlay(
                overlay(
                    left(md5(seed::text || request::text || '.' || nth::text), 20)
                    placing '7' from 1
                )
                placing '8' from 5
            )
        )::uuid
$$;

-- First come, first served, as an aggregate: how many tickets are available after each request of
-- a line.
--
-- Over a window in the order of arrival it gives each request what it asks for if that many are
-- available, and otherwise nothing: with 3 available, a request for 5 is refused and takes nothing
-- from the request for 1 behind it. A running sum would count the 5 as taken.
--
-- remaining is null before the first request of the line, which finds what is available.
create function available_after_request(remaining integer, available integer, quantity integer)
returns integer
language sql
immutable
parallel safe
as $$
    select
        coalesce(remaining, available)
        - case when quantity <= coalesce(remaining, available) then quantity else 0 end
$$;

create aggregate available_after(available integer, quantity integer) ( -- noqa: LT01
    sfunc = available_after_request,
    stype = integer,
    parallel = safe
);
