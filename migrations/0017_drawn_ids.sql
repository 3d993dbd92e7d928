-- Ids drawn once for a whole batch: gen_random_uuid() asks the operating system each time,
-- and two ids for each ticket were a fifth of what a ticket cost.
--
-- One time_ordered_uuid() is drawn, which nobody ever sees, and each id is hashed from it: its
-- time, then 72 bits of the hash. Whoever knows some ids of a batch cannot tell the others,
-- for they would have to find the 74 random bits of what was drawn. Version 7 leaves these
-- bits to us (RFC 9562, section 6.2).
--
-- Runs while the version before it serves: yes, it only adds.
-- depends: 0016_verdicts

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- The id of the nth ticket of a request, or with 0 of the request's reservation. Version 7
-- and variant 8 stand where the third and the fourth group of a UUID begin. The numbers are
-- cast: without that || is only stable, and the function would not be planned as if its
-- query stood there.
create function drawn_id(drawn uuid, request bigint, nth integer) returns uuid
language sql
immutable
parallel safe
as $$
    select
        (
            left(drawn::text, 14) || overlay(
                overlay(
                    left(md5(drawn::text || request::text || '.' || nth::text), 20)
                    placing '7' from 1
                )
                placing '8' from 5
            )
        )::uuid
$$;
