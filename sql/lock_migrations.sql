-- lock_migrations
--
-- Tries to lock the migrations; the caller tries again until it succeeds. It does not wait,
-- because `create index concurrently` waits for every open transaction, and so would wait for one
-- that waits here. PostgreSQL releases the lock when the connection ends, so a killed migration
-- leaves none behind.
--
-- returns: is_locked, whether this connection has the lock now
--
-- locks: an advisory lock that only this statement takes, until the connection ends
--
-- holdfast psql -f sql/lock_migrations.sql

select pg_try_advisory_lock(hashtextextended('holdfast migrate', 0)) as is_locked;
