-- Events: something on a date, with a fixed number of tickets.
--
-- House style for all that follows: lowercase, snake_case, every constraint named as the
-- sentence it enforces, every time with its zone. A rule that one row can tell is told to
-- the database, so that it also holds for whoever types into psql at night.
--
-- Runs while the version before it serves: there is none before it.
-- depends:

set local lock_timeout = '2s';
set local statement_timeout = '10min';

create table events (
    id uuid not null default gen_random_uuid(),
    name varchar not null,
    date timestamptz not null,
    total_tickets integer not null,
    -- Held or sold. What is available is computed from it and never stored.
    allocated_tickets integer not null default 0,
    created_at timestamptz not null default statement_timestamp(),
    updated_at timestamptz not null default statement_timestamp(),

    constraint events_pkey primary key (id),
    constraint events_have_a_name check (
        char_length(name) between 1 and 255 and btrim(name, e' \t\n\v\f\r') <> ''
    ),
    constraint events_have_tickets check (total_tickets >= 1),
    constraint events_never_allocate_below_zero check (allocated_tickets >= 0),
    -- The last line: should every lock and every guard above it be wrong, this refuses.
    constraint events_never_oversold check (allocated_tickets <= total_tickets)
);
