-- limit_waits
--
-- Limits how long the rest of this transaction waits for a lock and for a statement. It is a
-- statement of the batch and not a setting of the connection, because a pooler gives each
-- transaction another connection, and because a batch over many events waits less for a lock than
-- a batch for one event.
--
-- parameters
--   lock_timeout       interval  for one lock; then error 55P03
--   statement_timeout  interval  for one statement, its waits included; then error 57014
--
-- returns: one row, the two limits as PostgreSQL understood them
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
