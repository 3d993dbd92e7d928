-- list_applied_migrations
--
-- Lists the migrations that this database has, as yoyo has recorded them.
--
-- returns: migration_id, in the order in which they were applied; error 42P01 if none ever was
--
-- holdfast psql -f sql/list_applied_migrations.sql

select migration_id
from _yoyo_migration
order by applied_at_utc, migration_id;
