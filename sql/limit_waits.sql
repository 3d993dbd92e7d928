-- limit_waits
--
-- Bounds how long the rest of this transaction may wait, for a lock and for a statement.
-- A statement of the batch and not a setting of the connection: a pooler such as PgBouncer
-- hands each transaction another connection, and a batch over many events waits less
-- patiently than one for a single event.
--
-- parameters
--   lock_timeout       interval  for one lock; then 55P03
--   statement_timeout  interval  for one statement, waits included; then 57014
--
-- returns: one row, the two limits as PostgreSQL took them
-- locks: nothing
-- never oversells: it changes no row
--
-- holdfast psql -v lock_timeout=100ms -v statement_timeout='2 s' -f sql/limit_waits.sql

select
    set_config(
        'lock_timeout',
        ceil(extract(epoch from :'lock_timeout'::interval) * 1000)::integer || 'ms',
        true
    ) as lock_timeout,
    set_config(
        'statement_timeout',
        ceil(extract(epoch from :'statement_timeout'::interval) * 1000)::integer || 'ms',
        true
    ) as statement_timeout;
