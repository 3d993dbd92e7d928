-- list_grants
--
-- Lists the statements that give a role what the service needs and no more: what the files of
-- sql/ read and write, and the triggers behind them. holdfast grant runs them; psql does with
-- \gexec. What the role had on our tables before is taken away first.
--
-- parameters
--   role  text  an existing role
--
-- returns: statement, and is_missing: whether the role lacks what it gives. No row for a role
--   that is, or may become, the owner of the tables or a superuser: nothing is kept from it
-- locks: nothing
-- never oversells: it changes no row; what it lists lets nobody delete a ticket or change the
--   ledger
--
-- holdfast psql -v role=pg_database_owner -f sql/list_grants.sql

with needed (relation, privilege, columns) as (
    values
    ('events', 'select', null),
    ('events', 'insert', '{name, date, total_tickets}'::text[]),
    (
        'events', 'update',
        '{name, date, total_tickets, allocated_tickets, purchased_tickets, version}'
    ),
    ('ticket_allocations', 'select', null),
    (
        'ticket_allocations', 'insert',
        '{event_id, user_fingerprint, expires_at, reservation_id, position}'
    ),
    ('ticket_allocations', 'update', '{status, expires_at}'),
    ('event_private', 'select', null),
    ('event_private', 'insert', '{event_id}'),
    (
        'event_private', 'update',
        '{kind, actor, reserved, purchased, expired, cancelled, refunded}'
    ),
    ('event_ledger', 'select', null),
    (
        'event_ledger', 'insert',
        '{event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        reserved, purchased, expired, cancelled, refunded, last_event, actor}'
    ),
    ('_yoyo_migration', 'select', null)
),

kept as (
    select needed.*
    from needed
    inner join pg_class on needed.relation::regclass = pg_class.oid
    where not pg_has_role(:'role'::text, pg_class.relowner, 'member')
)

select
    format('grant usage on schema %I to %I', current_schema(), :'role'::text) as statement,
    true as is_missing
where not has_schema_privilege(:'role'::text, current_schema(), 'usage')

union all

select distinct
    format('revoke all on %I from %I', relation, :'role'::text) as statement,
    false as is_missing
from kept

union all

select
    format(
        'grant %s%s on %I to %I',
        privilege, ' (' || array_to_string(columns, ', ') || ')', relation, :'role'::text
    ) as statement,
    case
        when columns is null then not has_table_privilege(:'role'::text, relation, privilege)
        else exists (
            select
            from unnest(columns) as named (attribute)
            where
                not has_column_privilege(
                    :'role'::text, relation, named.attribute, privilege
                )
        )
    end as is_missing
from kept
order by statement desc;
