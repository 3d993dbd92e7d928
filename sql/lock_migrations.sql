-- lock_migrations
--
-- Tries to become the one who migrates; whoever fails tries again. It never waits, because
-- `create index concurrently` waits for every transaction, also for one that waits here.
-- PostgreSQL lets go of the lock with the connection, so that a killed migration leaves none.
--
-- returns: is_mine
-- locks: an advisory lock that only this statement takes, for as long as the connection lives
-- never oversells: it changes no row
--
-- holdfast psql -f sql/lock_migrations.sql

select pg_try_advisory_lock(hashtextextended('holdfast migrate', 0)) as is_mine;
