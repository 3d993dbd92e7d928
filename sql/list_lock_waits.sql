-- list_lock_waits
--
-- Lists who waits for a lock, since when, and for whom: a psql that somebody left open in a
-- transaction shows up here as the one who blocks.
--
-- returns: a row for each pair of one who waits and one who blocks: their pids, names, for how
--   long one has waited and the other is in its transaction, and what each runs or ran last
-- locks: nothing
-- never oversells: it changes no row
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
