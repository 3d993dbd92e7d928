"""The database schema: a query for all its objects, and its dump."""

import re

from service.embedded.programs import find_programs
from tests.support.database import Database
from tests.support.paths import DOCS

DUMP = DOCS / "reference" / "schema.sql"

# Selects every column, constraint, index, trigger, function, type and storage setting.
SCHEMA = """
select 'column', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
    pg_get_expr(adbin, adrelid)
from pg_attribute
left join pg_attrdef on adrelid = attrelid and adnum = attnum
join pg_class on pg_class.oid = attrelid
where relnamespace = current_schema::regnamespace and relkind = 'r' and attnum > 0
and not attisdropped and relname !~ 'yoyo'
union all
select 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid), true, null
from pg_constraint
where connamespace = current_schema::regnamespace and contype <> 'n'
and conrelid::regclass::text !~ 'yoyo'
union all
select 'index', indrelid::regclass, null, pg_get_indexdef(indexrelid), true, null
from pg_index
join pg_class on pg_class.oid = indexrelid
where relnamespace = current_schema::regnamespace and relname !~ 'yoyo'
union all
select 'trigger', tgrelid::regclass, tgname, pg_get_triggerdef(pg_trigger.oid), true, null
from pg_trigger
join pg_class on pg_class.oid = tgrelid
where relnamespace = current_schema::regnamespace and not tgisinternal
union all
select 'function', null, proname, prosrc, true, null
from pg_proc where pronamespace = current_schema::regnamespace
union all
select 'type', null, typname, (
    select string_agg(enumlabel, ',' order by enumsortorder)
    from pg_enum where enumtypid = pg_type.oid
), true, null
from pg_type where typnamespace = current_schema::regnamespace and typtype = 'e'
union all
select 'setting', oid::regclass, null, reloptions::text, true, null
from pg_class where relnamespace = current_schema::regnamespace and reloptions is not null
order by 1, 2, 3, 4
"""


def dump_schema(database: Database) -> str:
    """Return the schema as pg_dump writes it, without what depends on PostgreSQL's version."""
    text = find_programs().run(
        "pg_dump",
        *("--schema-only", "--no-owner", "--no-privileges", "--exclude-table=*yoyo*"),
        f"--dbname={database.dsn}",
    )
    boilerplate = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")
    lines = [line for line in text.splitlines() if not line.startswith(boilerplate)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
