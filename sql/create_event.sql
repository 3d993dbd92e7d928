-- create_event
--
-- Creates an event; all its tickets are available. A trigger adds version 1 to its ledger.
--
-- parameters
--   name           varchar
--   date           timestamptz
--   total_tickets  integer
--   terms          jsonb    an object with any of sale_opens_at, sale_closes_at, hold_seconds,
--                           max_hold_seconds and max_tickets_per_person; the times may be 'now'
--
-- returns: one row
--   outcome  granted, event_exists (one of this name on this date), or contradictory_terms
--   bad      text[]  for contradictory_terms: sale_closes_at if it is not after sale_opens_at, and
--                    max_hold_seconds if it is less than hold_seconds
--   id, …    the event, if it was created
--
-- locks: the new row. Of two requests for the same name and date, the second waits for the first
--   and then creates none.
--
-- never oversells: nothing of a new event is allocated.
--
-- holdfast psql -v name='Opening night' -v date='2030-01-01 20:00+00' -v total_tickets=100 \
--   -v terms='{"max_tickets_per_person": 4}' -f sql/create_event.sql

with wanted as (
    select
        :'name'::varchar as name,
        :'date'::timestamptz as date,
        :'total_tickets'::integer as total_tickets,
        terms.sale_opens_at,
        terms.sale_closes_at,
        terms.hold_seconds,
        terms.max_hold_seconds,
        terms.max_tickets_per_person
    from jsonb_to_record(:'terms'::jsonb) as terms (
        sale_opens_at timestamptz, sale_closes_at timestamptz, hold_seconds integer,
        max_hold_seconds integer, max_tickets_per_person integer
    )
),

checked as (
    select
        *,
        array_remove(
            array[
                case when sale_opens_at >= sale_closes_at then 'sale_closes_at' end,
                case when max_hold_seconds < hold_seconds then 'max_hold_seconds' end
            ],
            null
        ) as bad
    from wanted
),

created as (
    insert into events (
        name, date, total_tickets, sale_opens_at, sale_closes_at, hold_seconds, max_hold_seconds,
        max_tickets_per_person
    )
    select
        checked.name,
        checked.date,
        checked.total_tickets,
        checked.sale_opens_at,
        checked.sale_closes_at,
        checked.hold_seconds,
        checked.max_hold_seconds,
        checked.max_tickets_per_person
    from checked
    where checked.bad = '{}'
    on conflict (name, date) do nothing
    returning
        id, name, date, total_tickets, allocated_tickets, created_at, updated_at,
        purchased_tickets, version, sale_opens_at, sale_closes_at, hold_seconds, max_hold_seconds,
        max_tickets_per_person, revision, waiting_tickets,
        sale_status_at(sale_opens_at, sale_closes_at, statement_timestamp()) as sale_status
)

select
    case
        when checked.bad <> '{}' then 'contradictory_terms'
        when created.id is null then 'event_exists'
        else 'granted'
    end as outcome,
    checked.bad,
    created.*
from checked
left join created on true;
