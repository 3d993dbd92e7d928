-- First come, first served, as an aggregate: what is left after each request of a line.
--
-- Used over a window in the order of arrival, it hands every request what it asks for when
-- that much is left, and otherwise nothing: with 3 left, 5 is refused and takes nothing from
-- the 1 behind it. A running sum cannot say that; it would count the 5 as gone.
--
-- Runs while the version before it serves: yes, it only adds.
-- depends: 0012_event_ledger

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- still_left is null before the first request; then what is available is left.
create function left_after_request(still_left integer, available integer, quantity integer)
returns integer
language sql
immutable
parallel safe
as $$
    select
        coalesce(still_left, available)
        - case when quantity <= coalesce(still_left, available) then quantity else 0 end
$$;

create aggregate tickets_left(available integer, quantity integer) ( -- noqa: LT01
    sfunc = left_after_request,
    stype = integer,
    parallel = safe
);
