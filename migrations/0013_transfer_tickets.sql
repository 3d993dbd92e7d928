-- Let tickets change their owner, within what an event allows each person.
--
-- Runs while the version before it serves: yes, it only adds.
-- depends: 0012_compare_event_names

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- One transfer of a batch: the taker may have one ticket fewer after it, and the giver one more.
--
-- allowances has, for each person of the batch, how many more tickets of the event the person may
-- have; giver and taker are the places of two of them. All of it is null if the event has no limit.
-- A taker who may have no more gets nothing, and the giver keeps the ticket.
create function pass_ticket(allowances integer[], opening integer[], giver integer, taker integer)
returns integer[]
language plpgsql
immutable
parallel safe
as $$
begin
    allowances := coalesce(allowances, opening);
    if allowances[taker] >= 1 then
        allowances[taker] := allowances[taker] - 1;
        allowances[giver] := allowances[giver] + 1;
    end if;
    return allowances;
end
$$;

-- How many more tickets each person may have after each transfer, in the order of arrival.
create aggregate allowances_after(opening integer[], giver integer, taker integer) ( -- noqa: LT01
    sfunc = pass_ticket,
    stype = _int4, -- integer[], whose brackets sqlfluff cannot parse here
    parallel = safe
);
