-- Compare the names of events as readers do, whatever the locale of the database: in upper and
-- lower case, and in every normal form of Unicode.
--
-- name_for_search gives what a search compares. It takes the upper case of the lower case, because
-- σ and ς have one upper case, and ß and ẞ one lower case. It looks for a collation that knows
-- the case of all letters each time that it runs, so that a dump can be restored on a server with
-- another one: pg_unicode_fast is in PostgreSQL 18 and newer, und-x-icu in every server that was
-- built with ICU. PL/pgSQL looks up a collation only in the branch that it runs. A server that
-- has neither uses the locale of the database, and the service says so at its start.
--
-- Names are stored in NFC, so that é is one letter, however it was typed, and one name and date is
-- one event. A trigger does it and no check: a check would refuse a name that was imported or
-- typed into psql for a difference that nobody can see. Existing names are changed here, except
-- where two events would have the same name and date, or a name more than 255 characters; these
-- stay as they are until they are renamed.
--
-- Runs while the version before it serves: yes.
-- depends: 0011_sale_terms

set local lock_timeout = '2s';
set local statement_timeout = '10min';

create function name_for_search(name text)
returns text
language plpgsql
immutable
parallel safe
as $$
declare
    folded text;
begin
    if to_regcollation('pg_unicode_fast') is not null then
        folded := upper(lower(name collate pg_unicode_fast));
    elsif to_regcollation('"und-x-icu"') is not null then
        folded := upper(lower(name collate "und-x-icu"));
    else
        folded := upper(lower(name));
    end if;
    -- Checking a text takes a third of the time of normalizing it.
    return case when folded is nfc normalized then folded else normalize(folded, nfc) end;
end
$$;

create function normalize_event_name() returns trigger
language plpgsql
set search_path from current
as $$
begin
    -- An unchanged name may be one of those that could not be normalized.
    if new.name is distinct from old.name then
        new.name := normalize(new.name, nfc);
    end if;
    return new;
end
$$;

create trigger events_normalize_name
before insert or update of name on events
for each row execute function normalize_event_name();

-- Of several events that are one by name and date, the one whose name is in NFC already keeps it.
with spellings as materialized (
    select
        id,
        normalize(name) as name,
        row_number() over (
            partition by date, normalize(name)
            order by name = normalize(name) desc, id
        ) as place
    from events
)

update events
set name = spellings.name
from spellings
where
    events.id = spellings.id
    and events.name <> spellings.name
    and spellings.place = 1
    and char_length(spellings.name) <= 255;
