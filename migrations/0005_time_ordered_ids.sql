-- Generate ids in the order of time, so that new rows go to the right edge of the primary key's
-- index and not each to a random page.
--
-- The ids are UUIDs of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds in front of
-- what gen_random_uuid() returns. PostgreSQL has uuidv7() from version 18 on; this works from 15.
--
-- Runs while the version before it serves: yes, a default applies to new rows only.
-- depends: 0004_maintain_updated_at

set local lock_timeout = '2s';
set local statement_timeout = '10min';

create function time_ordered_uuid() returns uuid
language sql
volatile
parallel safe
as $$
    select
        encode(
            set_bit(
                set_bit(
                    overlay(
                        uuid_send(gen_random_uuid())
                        placing substring(
                            int8send(floor(extract(epoch from statement_timestamp()) * 1000)::bigint)
                            from 3
                        )
                        from 1 for 6
                    ),
                    52, 1
                ),
                53, 1
            ),
            'hex'
        )::uuid
$$;

alter table events
alter column id set default time_ordered_uuid();

alter table ticket_allocations
alter column id set default time_ordered_uuid();
