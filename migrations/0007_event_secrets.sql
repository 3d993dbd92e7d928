-- Give each event a secret. From it are derived the ids and names that may be shown although what
-- they are derived from may not: the id of a reservation made with an idempotency key, and the
-- short name of a buyer in the ledger and the stream.
--
-- The secret has a table of its own, so that `select * from events` does not show it.
--
-- Both functions hash each part alone before they hash the parts together, or the parts `a` and
-- `bc` would give the same as `ab` and `c`. They cast a text to bytea after doubling its
-- backslashes, which gives its UTF-8 bytes: the usual convert_to() is only stable, and on Citus
-- an update may apply only immutable functions to a column.
--
-- Runs while the version before it serves: yes, it only adds; existing events get their secret
-- here, new ones by a trigger.
-- depends: 0006_reservations_and_counts

set local lock_timeout = '2s';
set local statement_timeout = '10min';

create table event_private (
    event_id uuid not null,
    secret uuid not null default gen_random_uuid(),

    constraint event_private_pkey primary key (event_id),
    constraint private_rows_belong_to_an_event
    foreign key (event_id) references events (id)
);

-- The id of the reservation that an idempotency key makes. It is always the same for the same
-- owner and key, so a replay finds its tickets without a table of keys, and nobody can guess it
-- without the secret. It is a UUID of version 8 (RFC 9562, section 5.8), whose digits 13 and 17 are
-- fixed and whose other bits are free to use.
create function reservation_id_for_key(secret uuid, user_fingerprint text, idempotency_key text)
returns uuid
language sql
immutable
parallel safe
as $$
    select
        overlay(
            overlay(
                left(
                    encode(
                        sha256(
                            uuid_send(secret)
                            || sha256(replace(user_fingerprint, '\', '\\')::bytea)
                            || sha256(replace(idempotency_key, '\', '\\')::bytea)
                        ),
                        'hex'
                    ),
                    32
                )
                placing '8' from 13
            )
            placing '8' from 17
        )::uuid
$$;

-- A short name for a buyer, the same throughout one event and different in each. It cannot be
-- turned back into the fingerprint without the secret.
create function actor_name(secret uuid, user_fingerprint text)
returns text
language sql
immutable
parallel safe
as $$
    select
        left(
            encode(
                sha256(
                    uuid_send(secret) || sha256(replace(user_fingerprint, '\', '\\')::bytea)
                ),
                'hex'
            ),
            10
        )
$$;

create function add_event_secret() returns trigger
language plpgsql
set search_path from current
as $$
begin
    insert into event_private (event_id) values (new.id);
    return null;
end
$$;

create trigger events_have_a_secret
after insert on events
for each row execute function add_event_secret();

-- The CTE is materialized because Citus accepts no `insert … select` from one schema's table into
-- another of the same statement without it.
with existing_events as materialized (
    select id from events
)

insert into event_private (event_id)
select id from existing_events;
