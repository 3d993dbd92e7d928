-- Create the functions that several statements of sql/ share, so that each rule stands once.
--
-- None of them reads a table, takes a row, or calls another of them, and all but the clock's value
-- are immutable, so that Citus can run them where the event lives. PostgreSQL puts the text of
-- those in SQL into the statement that calls them: they cost nothing and hide nothing from the
-- planner.
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

-- First come, first served, as an aggregate: what is left of an event after each request of a
-- batch, in the order of arrival.
--
-- A request gets all the tickets that it wants if so many are available and its person may have so
-- many more. Otherwise it gets none, and takes nothing from those behind it: with 3 available, a
-- request for 5 is refused, and a request for 1 behind it is granted. A running sum would count
-- the 5 as taken.
--
-- opening and remaining have the available tickets in their first element. If the event limits
-- what one person may have, the others are how many more each person of the batch may have; place
-- is the element of the request's person, else null. wanted is null or 0 for a request that gets
-- nothing in any case.
create function take_turn(remaining integer[], opening integer[], wanted integer, place integer)
returns integer[]
language plpgsql
immutable
parallel safe
as $$
begin
    remaining := coalesce(remaining, opening);
    if wanted <= remaining[1] and (place is null or wanted <= remaining[place]) then
        remaining[1] := remaining[1] - wanted;
        if place is not null then
            remaining[place] := remaining[place] - wanted;
        end if;
    end if;
    return remaining;
end
$$;

create aggregate remaining_after(opening integer[], wanted integer, place integer) ( -- noqa: LT01
    sfunc = take_turn,
    stype = _int4, -- integer[], whose brackets sqlfluff cannot parse here
    parallel = safe
);
