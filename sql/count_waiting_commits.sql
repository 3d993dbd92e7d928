-- count_waiting_commits
--
-- Counts the service's sessions whose commit waits for a synchronous standby. Such a commit may
-- wait for as long as the standby is away. Its connection is quiet, but not lost: closing it would
-- not end the wait, and the session would remain beside the one that replaces it.
--
-- returns: one row with waiting_commits
--
-- holdfast psql -f sql/count_waiting_commits.sql

select count(*) as waiting_commits
from pg_stat_activity
where
    datname = current_database()
    and usename = current_user
    and wait_event = 'SyncRep';
