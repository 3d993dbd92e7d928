-- list_service_connections
--
-- Lists the connections of services to this database. `holdfast migrate` looks for them before it
-- changes what a running version relies on. A pooler keeps connections open, and their names, for
-- a while after its services have stopped.
--
-- parameters
--   name  text  the application_name of the services: holdfast, or that in their DATABASE_URL
--
-- returns: one row for each connection, the oldest first: its process, name, role, client and start
--   in PostgreSQL; a role sees the clients of others only with pg_read_all_stats
--
-- holdfast psql -v name=holdfast -f sql/list_service_connections.sql

select
    pid,
    application_name,
    usename,
    client_addr,
    backend_start
from pg_stat_activity
where
    datname = current_database()
    and application_name = :'name'::text
    and pid <> pg_backend_pid()
order by backend_start, pid;
