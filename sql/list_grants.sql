-- list_grants
--
-- Lists the statements that give a role what the service needs and nothing else: what the files of
-- sql/ read and write, and the triggers behind them. `holdfast grant` runs them; in psql, \gexec
-- does. Other rights of the role on the tables of this schema are revoked first.
--
-- parameters
--   role  text  an existing role
--
-- returns: one row for each statement; none if the role is, or can become, the owner of the tables
--   or a superuser, which has every right
--   statement
--   is_missing  whether the role lacks what the statement grants
--
-- holdfast psql -v role=pg_database_owner -f sql/list_grants.sql

with used (relation, privilege, columns) as (
    values
    ('events', 'select', null),
    (
        'events', 'insert',
        '{name, date, total_tickets, sale_opens_at, sale_closes_at, hold_seconds, max_hold_seconds,
        max_tickets_per_person}'::text[]
    ),
    (
        'events', 'update',
        '{name, date, total_tickets, sale_opens_at, sale_closes_at, hold_seconds, max_hold_seconds,
        max_tickets_per_person, revision, allocated_tickets, purchased_tickets, waiting_tickets,
        version}'
    ),
    ('ticket_allocations', 'select', null),
    (
        'ticket_allocations', 'insert',
        '{id, event_id, user_fingerprint, expires_at, reservation_id, position}'
    ),
    ('ticket_allocations', 'update', '{status, expires_at, user_fingerprint}'),
    ('event_private', 'select', null),
    ('event_private', 'insert', '{event_id}'),
    ('event_ledger', 'select', null),
    (
        'event_ledger', 'insert',
        '{event_id, version, recorded_at, total_tickets, allocated_tickets, purchased_tickets,
        waiting_tickets, reserved, purchased, expired, cancelled, refunded, last_event, actor}'
    ),
    ('waiting_entries', 'select', null),
    ('waiting_entries', 'insert', '{event_id, position, user_fingerprint, quantity}'),
    ('waiting_entries', 'update', '{reservation_id, left_at, unservable_at}'),
    ('_yoyo_migration', 'select', null)
),

-- On Citus the right to insert is for every column: it sends the worker a whole row, also what we
-- leave to the defaults.
needed as (
    select
        used.relation,
        used.privilege,
        case when used.privilege <> 'insert' or citus.extname is null then used.columns end
            as columns
    from used
    left join pg_extension as citus on citus.extname = 'citus'
),

ours as (
    select pg_namespace.*
    from pg_class
    inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
    where
        pg_class.oid = 'events'::regclass
        and not pg_has_role(:'role'::text, pg_class.relowner, 'member')
),

listed as (
    select
        1 as step,
        format('revoke all on all tables in schema %I from %I', nspname, :'role'::text)
            as statement,
        false as is_missing
    from ours
    union all
    select
        2 as step,
        format('revoke create on schema %I from %I', nspname, :'role'::text) as statement,
        false as is_missing
    from ours
    union all
    select
        3 as step,
        format('grant usage on schema %I to %I', nspname, :'role'::text) as statement,
        true as is_missing
    from ours
    where not has_schema_privilege(:'role'::text, oid, 'usage')
    union all
    select
        4 as step,
        format('grant execute on function %s to %I', pg_proc.oid::regprocedure, :'role'::text)
            as statement,
        true as is_missing
    from ours
    inner join pg_proc on ours.oid = pg_proc.pronamespace
    where
        pg_proc.prorettype <> 'trigger'::regtype
        and not has_function_privilege(:'role'::text, pg_proc.oid, 'execute')
    union all
    select
        5 as step,
        format(
            'grant %s%s on %I to %I', needed.privilege,
            ' (' || array_to_string(needed.columns, ', ') || ')', needed.relation, :'role'::text
        ) as statement,
        not coalesce((
            select
                bool_and(
                    has_column_privilege(
                        :'role'::text, needed.relation, named.attribute, needed.privilege
                    )
                )
            from unnest(needed.columns) as named (attribute)
        ), has_table_privilege(:'role'::text, needed.relation, needed.privilege)) as is_missing
    from needed
    inner join ours on true
)

select
    statement,
    is_missing
from listed
order by step, statement;
