-- Create the table of ticket allocations: one row for each ticket that was ever handed out.
--
-- A row is never deleted. Its status says what became of the ticket: held, paid for, or one of
-- the three ways in which it came back.
--
-- Runs while the version before it serves: yes, it only adds.
-- depends: 0001_create_events

set local lock_timeout = '2s';
set local statement_timeout = '10min';

create type allocation_status as enum (
    'reserved', 'purchased', 'expired', 'user_cancelled', 'refunded'
);

create table ticket_allocations (
    id uuid not null default gen_random_uuid(),
    event_id uuid not null,
    user_fingerprint varchar not null,
    status allocation_status not null default 'reserved',
    expires_at timestamptz,
    created_at timestamptz not null default statement_timestamp(),
    updated_at timestamptz not null default statement_timestamp(),

    constraint ticket_allocations_pkey primary key (id),
    constraint tickets_belong_to_an_event foreign key (event_id) references events (id),
    constraint tickets_have_an_owner check (char_length(user_fingerprint) between 1 and 512),
    -- A hold without an end would keep its ticket from everybody else.
    constraint reserved_tickets_have_an_end check (
        status <> 'reserved' or expires_at is not null
    ),
    -- The clock must not take back a ticket that is paid for.
    constraint purchased_tickets_have_no_end check (
        status <> 'purchased' or expires_at is null
    )
);
