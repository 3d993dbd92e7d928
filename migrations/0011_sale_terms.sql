-- Give each event the terms of its sale: when it opens and closes, how long a hold lasts, and how
-- many tickets one person may have. Number the revisions of an event.
--
-- A term that is null sets nothing: no opening time, no closing time, the hold length of the
-- service, no limit. The revision starts at 1 and grows by one with each change of the name, the
-- date, the total or a term, but not with a sale: an organizer who edits an event can tell whether
-- somebody else has edited it meanwhile.
--
-- The columns are null or have a constant default, so no row is rewritten. The constraints read
-- the table once while it is locked, which takes a second for millions of events.
--
-- Runs while the version before it serves: yes, that version sells without terms.
-- squawk-ignore-file adding-field-with-default, constraint-missing-not-valid
-- depends: 0010_index_holds

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table events
add column sale_opens_at timestamptz,
add column sale_closes_at timestamptz,
add column hold_seconds integer,
add column max_hold_seconds integer,
add column max_tickets_per_person integer,
add column revision bigint not null default 1;

-- Each constraint in a command of its own, as Citus wants them.
alter table events
add constraint sales_open_before_they_close check (sale_opens_at < sale_closes_at);

alter table events
add constraint holds_last_a_second_to_a_year check (hold_seconds between 1 and 31536000);

alter table events
add constraint longest_holds_last_a_second_to_a_year check (
    max_hold_seconds between 1 and 31536000
);

alter table events
add constraint longest_holds_are_not_shorter_than_holds check (max_hold_seconds >= hold_seconds);

alter table events
add constraint each_person_may_have_a_ticket check (max_tickets_per_person >= 1);

alter table events
add constraint events_begin_at_revision_one check (revision >= 1);

-- Whether an event is on sale at a moment. A sale is open from its opening time, inclusive, to its
-- closing time, exclusive.
create function sale_status_at(opens_at timestamptz, closes_at timestamptz, at timestamptz)
returns text
language sql
immutable
parallel safe
as $$
    select
        case
            when at < opens_at then 'upcoming'
            when at >= closes_at then 'closed'
            else 'open'
        end
$$;

-- When a hold of so many seconds ends. `+` with an interval is only stable, because a day depends
-- on the time zone; seconds do not.
create function hold_end(begins_at timestamptz, seconds integer) returns timestamptz
language sql
immutable
parallel safe
as $$
    select begins_at + make_interval(secs => seconds)
$$;

-- End the transaction with an error of our own unless a condition is met: for a request that names
-- the state of the event that it is about, when the event is in another one.
create function refuse_unless(is_met boolean) returns boolean
language plpgsql
immutable
parallel safe
as $$
begin
    if is_met is not true then
        raise exception 'the event is in another state than the request names'
        using errcode = 'HF412';
    end if;
    return true;
end
$$;
