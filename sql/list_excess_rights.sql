-- list_excess_rights
--
-- Lists which rights a role has on the tables that the service does not need, after list_grants
-- has revoked the role's own: what is left comes from PUBLIC or from another role.
--
-- parameters
--   role  text  an existing role
--
-- returns: excess_right, in words
--
-- holdfast psql -v role=pg_database_owner -f sql/list_excess_rights.sql

with tables (relation) as (
    values ('events'), ('ticket_allocations'), ('event_private'), ('event_ledger'),
    ('waiting_entries')
)

select tables.relation || ': ' || refused.privilege as excess_right
from tables
cross join unnest('{delete, truncate, references, trigger}'::text[]) as refused (privilege)
where has_table_privilege(:'role'::text, tables.relation, refused.privilege)

union all

select named.relation || '.' || named.attribute || ': update' as excess_right
from (
    values
    ('ticket_allocations', 'reservation_id'),
    ('ticket_allocations', 'event_id'),
    ('event_private', 'secret'),
    ('event_ledger', 'version'),
    ('waiting_entries', 'user_fingerprint')
) as named (relation, attribute)
where has_column_privilege(:'role'::text, named.relation, named.attribute, 'update')

union all

select 'the schema: create' as excess_right
from pg_class
where
    pg_class.oid = 'events'::regclass
    and has_schema_privilege(:'role'::text, pg_class.relnamespace, 'create')
order by excess_right;
