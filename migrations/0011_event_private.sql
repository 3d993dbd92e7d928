-- What an event keeps to itself, one row beside each event: a secret, and a draft.
--
-- Under the secret come the names that may be shown although what they are made from may
-- not: the id of a reservation made with a key, and the short name of a buyer in the stream.
-- The draft is the ledger row that the transaction under way is writing. Each statement of a
-- batch adds to it, record_changes empties it; outside of a transaction it is empty.
-- They have a table of their own so that `select * from events` shows neither.
--
-- Runs while the version before it serves: yes, it only adds; a row for each event that is
-- there, and from then on by trigger.
-- depends: 0010_cancelled_and_refunded

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- What may happen to an event and its tickets; the ledger and the stream use the same words.
create type event_change as enum (
    'created', 'updated', 'resized',
    'reserved', 'purchased', 'expired', 'user_cancelled', 'refunded'
);

create table event_private (
    event_id uuid not null,
    secret uuid not null default gen_random_uuid(),
    -- The draft: the last kind of change and who made it, and how many tickets moved how.
    kind event_change,
    actor varchar,
    reserved integer not null default 0,
    purchased integer not null default 0,
    expired integer not null default 0,
    cancelled integer not null default 0,
    refunded integer not null default 0,

    constraint event_private_pkey primary key (event_id),
    constraint private_rows_belong_to_an_event
    foreign key (event_id) references events (id)
);

-- The id of the reservation that a key makes: always the same, so that a repeat finds its
-- own tickets without a table of keys, and nobody guesses it without the secret. Each part
-- is hashed alone first, or `a:b` with `c` would be `a` with `b:c`. Version 8, variant 10:
-- RFC 9562, section 5.8, leaves the other bits to us.
create function reservation_id_for_key(secret uuid, user_fingerprint text, idempotency_key text)
returns uuid
language sql
stable
parallel safe
as $$
    select
        encode(
            set_byte(
                set_byte(hash, 6, get_byte(hash, 6) & 15 | 128), 8, get_byte(hash, 8) & 63 | 128
            ),
            'hex'
        )::uuid
    from (
        select
            substring(
                sha256(
                    uuid_send(secret)
                    || sha256(convert_to(user_fingerprint, 'UTF8'))
                    || sha256(convert_to(idempotency_key, 'UTF8'))
                )
                for 16
            ) as hash
    ) as hashed
$$;

-- A short name for a buyer: stable within one event, unlinkable across events, and not to be
-- turned back, since the secret is not known.
create function actor_name(secret uuid, user_fingerprint text)
returns text
language sql
stable
parallel safe
as $$
    select
        left(
            encode(sha256(uuid_send(secret) || sha256(convert_to(user_fingerprint, 'UTF8'))), 'hex'),
            10
        )
$$;

create function open_event_private() returns trigger
language plpgsql
set search_path from current
as $$
begin
    insert into event_private (event_id) values (new.id);
    return null;
end
$$;

create trigger events_open_private
after insert on events
for each row execute function open_event_private();

insert into event_private (event_id)
select id from events;
