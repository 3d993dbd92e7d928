-- list_lines
--
-- Lists events in which people wait in line while tickets are available, for the sweeper; and
-- counts what is wanted in all lines.
--
-- parameters
--   most  integer  how many events
--
-- returns: waiting_tickets, the sum over all events, on every row, and with it an event_id; one row
--   with waiting_tickets alone if there is no such event. The events are in random order: where an
--   entry blocks its line, tickets stay available, and such events must not hide the others.
--
-- holdfast psql -v most=100 -f sql/list_lines.sql

with lines as (
    select
        id,
        waiting_tickets,
        allocated_tickets < total_tickets
        and sale_status_at(sale_opens_at, sale_closes_at, statement_timestamp()) = 'open'
            as is_offerable
    from events
    where waiting_tickets > 0
),

offerable as (
    select id
    from lines
    where is_offerable
    order by random()
    limit :'most'::integer
)

select
    total.waiting_tickets,
    offerable.id as event_id
from (select coalesce(sum(waiting_tickets), 0)::bigint as waiting_tickets from lines) as total
left join offerable on true;
