-- list_event_ids
--
-- Lists the ids of all events, a part at a time, for the audit to go through.
--
-- parameters
--   after      uuid     the id after which to begin; all zeros to begin
--   page_size  integer
--
-- returns: event_id, in their order, and how many there are from here on
-- locks: nothing
-- never oversells: it changes no row
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
