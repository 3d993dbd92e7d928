-- list_event_ids
--
-- Lists the ids of all events, a page at a time, for the audit.
--
-- parameters
--   after      uuid     list the ids behind this one; all zeros for the first page
--   page_size  integer
--
-- returns: event_id, in order, and remaining: how many there are from here on
--
-- holdfast psql -v after=00000000-0000-0000-0000-000000000000 -v page_size=100 \
--   -f sql/list_event_ids.sql

select
    id as event_id,
    count(*) over () as remaining
from events
where id > :'after'::uuid
order by id
limit :'page_size'::integer;
