"""The schema dump and docs/schema.md match the migrations."""

import re

import pytest

from service.embedded.programs import find_programs
from tests.support.database import Database
from tests.support.paths import DOCS
from tests.support.schema import DUMP, dump_schema


def test_the_dump_matches_the_migrations(database: Database) -> None:
    """``python -m tests.support.write_schema`` writes the dump."""
    if find_programs().major != 18:
        pytest.skip("the dump is written by pg_dump 18, and the format differs between versions")
    assert dump_schema(database) == DUMP.read_text(), "run python -m tests.support.write_schema"


def test_the_diagram_has_exactly_the_columns(database: Database) -> None:
    diagram = (DOCS / "schema.md").read_text().partition("```mermaid")[2].partition("```")[0]
    drawn = {
        f"{table}.{name}|{type_}"
        for table, body in re.findall(r"^    (\w+) \{\n(.*?)^    \}", diagram, re.M | re.S)
        for type_, name in re.findall(r"^ +(\w+) (\w+)", body, re.M)
    }
    short = {"character varying": "varchar", "timestamp with time zone": "timestamptz"}
    columns = database.psql(
        "select attrelid::regclass || '.' || attname, format_type(atttypid, null) "
        "from pg_attribute join pg_class on pg_class.oid = attrelid "
        "where relnamespace = 'public'::regnamespace and relkind = 'r' and attnum > 0 "
        "and not attisdropped and relname !~ 'yoyo'"
    )
    assert drawn == {
        f"{name}|{short.get(type_, type_)}" for name, type_ in (row.split("|") for row in columns)
    }


def test_the_page_names_every_part_of_the_schema(database: Database) -> None:
    text = (DOCS / "schema.md").read_text()
    names = database.psql(
        "select attname from pg_attribute where attrelid in "
        "('events'::regclass, 'ticket_allocations'::regclass, 'event_private'::regclass, "
        "'event_ledger'::regclass) and attnum > 0 and not attisdropped "
        "union select conname from pg_constraint where connamespace = 'public'::regnamespace "
        "and contype <> 'n' and conrelid <> 0 and conrelid::regclass::text !~ 'yoyo' "
        "union select indexrelid::regclass::text from pg_index where indrelid in "
        "('events'::regclass, 'ticket_allocations'::regclass) "
        "union select proname from pg_proc where pronamespace = 'public'::regnamespace "
        "and prorettype <> 'trigger'::regtype "
        "union select tgname from pg_trigger where not tgisinternal "
        "union select unnest(enum_range(null::event_change))::text "
        "union select unnest(enum_range(null::allocation_status))::text"
    )
    assert [name for name in names if f"`{name}" not in text] == []


def test_the_page_names_nothing_that_does_not_exist(database: Database) -> None:
    text = (DOCS / "schema.md").read_text()
    existing = set(
        database.psql(
            "select conname from pg_constraint union select relname from pg_class "
            "union select proname from pg_proc union select attname from pg_attribute "
            "union select typname from pg_type union select tgname from pg_trigger"
        )
    )
    names = re.findall(r"^\| `(\w+)[`(]", text, re.M)
    assert len(names) > 30
    assert [name for name in names if name not in existing] == []
