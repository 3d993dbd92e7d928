-- list_excess_rights
--
-- Lists what a role may do to our tables that the service has no use for, after list_grants has
-- taken away what was the role's own: what is left comes from PUBLIC or from another role.
--
-- parameters
--   role  text  an existing role
--
-- returns: right_left, in words
-- locks: nothing
-- never oversells: it changes no row, and tells who could
--
-- holdfast psql -v role=pg_database_owner -f sql/list_excess_rights.sql

with tables (relation) as (
    values ('events'), ('ticket_allocations'), ('event_private'), ('event_ledger')
)

select tables.relation || ': ' || refused.privilege as right_left
from tables
cross join unnest('{delete, truncate, references, trigger}'::text[]) as refused (privilege)
where has_table_privilege(:'role'::text, tables.relation, refused.privilege)

union all

select named.relation || '.' || named.attribute || ': update' as right_left
from (
    values
    ('ticket_allocations', 'user_fingerprint'),
    ('ticket_allocations', 'event_id'),
    ('event_private', 'secret'),
    ('event_ledger', 'version')
) as named (relation, attribute)
where has_column_privilege(:'role'::text, named.relation, named.attribute, 'update')

union all

select 'the schema: create' as right_left
from pg_class
where
    pg_class.oid = 'events'::regclass
    and has_schema_privilege(:'role'::text, pg_class.relnamespace, 'create')
order by right_left;
