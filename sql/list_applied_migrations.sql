-- list_applied_migrations
--
-- Lists the migrations that this database has, as yoyo has marked them.
--
-- returns: migration_id, in the order they were applied; 42P01 where none ever was
-- locks: nothing
-- never oversells: it changes no row
--
-- holdfast psql -f sql/list_applied_migrations.sql

select migration_id
from _yoyo_migration
order by applied_at_utc, migration_id;
