-- Create the table of events: something that happens on a date, with a fixed number of tickets.
--
-- Conventions of all migrations: lowercase, snake_case, a constraint's name is the sentence that
-- it enforces, every time has a time zone. Every rule about one row is a constraint, so that it
-- also holds for changes made by hand in psql.
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
    -- Held or purchased. The available tickets are computed from it and not stored.
    allocated_tickets integer not null default 0,
    created_at timestamptz not null default statement_timestamp(),
    updated_at timestamptz not null default statement_timestamp(),

    constraint events_pkey primary key (id),
    -- Also when two requests create the same event at the same time.
    constraint events_are_unique_by_name_and_date unique (name, date),
    constraint events_have_a_name check (
        char_length(name) between 1 and 255 and btrim(name, e' \t\n\v\f\r') <> ''
    ),
    constraint events_have_tickets check (total_tickets >= 1),
    constraint events_never_allocate_below_zero check (allocated_tickets >= 0),
    -- The last line of defense: if every lock and every check before it were wrong, this refuses.
    constraint events_never_oversold check (allocated_tickets <= total_tickets)
)
-- Room on each page: every batch updates a row here, and while its new version fits on the page of
-- the old one, no index changes and the page cleans itself.
with (fillfactor = 50);
