-- list_lock_waits
--
-- Lists which sessions wait for a lock, for how long, and which sessions block them. A psql that
-- was left open in a transaction shows up here as a blocker.
--
-- returns: one row for each pair of a waiting and a blocking session, with their process ids and
--   names, how long the one has waited and how long the other's transaction is open, and what each
--   runs or ran last
--
-- holdfast psql -f sql/list_lock_waits.sql

select
    waits.pid as waiting_pid,
    waits.application_name as waiting,
    date_trunc('milliseconds', clock_timestamp() - waits.query_start) as has_waited,
    substring(regexp_replace(waits.query, '\s+', ' ', 'g') for 60) as waiting_query,
    blocks.pid as blocking_pid,
    blocks.application_name as blocking,
    blocks.state as blocking_state,
    date_trunc('milliseconds', clock_timestamp() - blocks.xact_start) as in_transaction,
    substring(regexp_replace(blocks.query, '\s+', ' ', 'g') for 60) as blocking_query
from pg_stat_activity as waits
cross join lateral unnest(pg_blocking_pids(waits.pid)) as blockers (pid)
inner join pg_stat_activity as blocks on blockers.pid = blocks.pid
where waits.datname = current_database()
order by waits.query_start, waits.pid, blocks.pid;
