-- find_pooler
--
-- Checks whether a transaction pooler, such as PgBouncer, stands between the service and
-- PostgreSQL. At the start of a connection a server sends the id of the process that serves it. A
-- pooler serves each transaction by a different process, so the two ids differ.
--
-- parameters
--   process  integer  the id that was sent at the start of the connection
--
-- returns: is_pooled
--
-- holdfast psql -v process=0 -f sql/find_pooler.sql

select pg_backend_pid() <> :'process'::integer as is_pooled;
