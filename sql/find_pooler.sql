-- find_pooler
--
-- Tells whether a pooler, such as PgBouncer, stands between a connection and PostgreSQL. The
-- server names at a connection's start the process that will answer it; a pooler hands each
-- transaction to whichever connection it has, and names none of theirs.
--
-- parameters
--   process  integer  as it was named to the connection
--
-- returns: is_pooled
-- locks: nothing
-- never oversells: it changes no row
--
-- holdfast psql -v process=0 -f sql/find_pooler.sql

select pg_backend_pid() <> :'process'::integer as is_pooled;
