-- Ids in the order of time: a crowd's new rows land side by side at the right edge of the
-- index instead of each on a page of its own.
--
-- UUID version 7 (RFC 9562, section 5.7): 48 bits of milliseconds before what
-- gen_random_uuid() makes. PostgreSQL has it of its own from version 18 on; we begin at 15.
--
-- Runs while the version before it serves: yes, a default counts for new rows only.
-- depends: 0005_event_counts

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
