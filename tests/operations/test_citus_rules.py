"""The rules by which the same SQL runs on Citus, kept without one; each is shown to fail, too.

Each was found on Citus 13.2, with a schema as a shard: what breaks one is refused there, or, as
with a trigger that is also for truncate, not carried out.
"""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from service.database.connections import PLAN_OPTIONS, PLAN_OPTIONS_ON_CITUS
from service.database.migrations import migration_names
from service.database.statements import load_statements, translate
from service.settings import resource
from tests.support.database import Database
from tests.support.node_trees import UPDATE, WRITES, Node, parse_nodes

STATEMENTS = load_statements(resource("sql"))
MIGRATIONS = resource("migrations")


def without_comments(sql: str) -> str:
    """Leave out comments, texts and bodies of functions, in which words mean nothing."""
    return re.sub(r"--[^\n]*|/\*.*?\*/|\$\$.*?\$\$|'(?:[^']|'')*'", " ", sql, flags=re.DOTALL)


# The functions and triggers of the schema, by the catalog

FUNCTIONS = """
select
    proname, provolatile, prorettype = 'trigger'::regtype, coalesce(proconfig::text, ''),
    case when prokind = 'f' then pg_get_functiondef(oid) else '' end,
    exists (
        select from unnest(proargtypes) as arguments (id)
        join pg_type on pg_type.oid = arguments.id
        left join pg_type as elements on elements.oid = pg_type.typelem
        where 'c' in (pg_type.typtype, elements.typtype) or pg_type.typname = 'record'
    )
from pg_proc
where pronamespace = current_schema::regnamespace
"""
TABLES = """
select relname from pg_class
where relnamespace = current_schema::regnamespace and relkind in ('r', 'v')
"""
# Of a trigger: 4 insert, 8 delete, 16 update, 32 truncate.
MIXED_TRIGGERS = """
select tgname from pg_trigger
where not tgisinternal and tgtype & 32 <> 0 and tgtype & 28 <> 0
"""
VOLATILE = {"time_ordered_uuid"}


def broken_by_the_schema(database: Database) -> Iterator[str]:
    """Yield what the functions and triggers of a schema break."""
    with database.connect() as connection:
        functions = connection.execute(FUNCTIONS).fetchall()
        tables = {name for (name,) in connection.execute(TABLES)}
        mixed = [name for (name,) in connection.execute(MIXED_TRIGGERS)]
    for trigger in mixed:
        yield f"{trigger} is for truncate and for more"
    names = {name for name, *_ in functions}
    for name, volatility, is_trigger, settings, definition, takes_rows in functions:
        _, _, body = without_comments(definition).partition("\n")  # less its name and arguments
        if takes_rows:
            yield f"{name} takes a row"
        if any(re.search(rf"\b{other}\(", body) for other in names):
            yield f"{name} calls a function of ours"
        if is_trigger:
            if "search_path=" not in settings:
                yield f"{name} has no search_path"
            continue
        if any(re.search(rf"\b{table}\b", body) for table in tables):
            yield f"{name} reads a table"
        if volatility != "i" and name not in VOLATILE:
            yield f"{name} is not immutable"


def test_the_functions_and_triggers_keep_to_the_rules(database: Database) -> None:
    assert list(broken_by_the_schema(database)) == []


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (
            "create function bad(ticket ticket_allocations) returns text language sql immutable "
            "as $$ select ticket.user_fingerprint $$",
            "bad takes a row",
        ),
        (
            "create function bad(tickets ticket_allocations[]) returns integer language sql "
            "immutable as $$ select cardinality(tickets) $$",
            "bad takes a row",
        ),
        (
            "create function bad() returns bigint language sql immutable "
            "as $$ select count(*) from events $$",
            "bad reads a table",
        ),
        (
            "create function bad(request integer) returns uuid language sql immutable "
            "as $$ select derived_id(null, request, 0) $$",
            "bad calls a function of ours",
        ),
        (
            "create function bad(name text) returns bytea language sql stable "
            "as $$ select convert_to(name, 'UTF8') $$",
            "bad is not immutable",
        ),
        (
            "create function bad() returns trigger language plpgsql as $$ begin return new; end $$",
            "bad has no search_path",
        ),
        (
            "create trigger bad before update or truncate on event_ledger "
            "for each statement execute function refuse_to_change_ledger()",
            "bad is for truncate and for more",
        ),
    ],
)
def test_a_function_or_trigger_that_breaks_a_rule_is_named(
    database: Database, sql: str, rule: str
) -> None:
    database.psql(sql)
    assert list(broken_by_the_schema(database)) == [rule]


# The writing statements, by what PostgreSQL has understood of them


def nodes_of(connection: psycopg.Connection, sql: bytes, types: list[str]) -> Node:
    """Return a statement as PostgreSQL keeps it in a function that is made of it."""
    made = f"create function of_a_statement({', '.join(types)}) returns void begin atomic "
    connection.execute(made.encode() + sql + b"; end")
    row = connection.execute(
        "select prosqlbody::text from pg_proc where proname = 'of_a_statement'"
    ).fetchone()
    connection.rollback()
    assert row is not None
    return parse_nodes(row[0])


def broken_by_a_write(connection: psycopg.Connection, sql: bytes, types: list[str]) -> set[str]:
    """Return what a statement breaks, if it writes."""
    tree = nodes_of(connection, sql, types)
    if not any(node.fields.get("commandType") in WRITES for node in tree.all("QUERY")):
        return set()

    def volatility(function: str) -> tuple[str, str]:
        row = connection.execute(
            "select proname, provolatile from pg_proc where oid = %s", [int(function)]
        ).fetchone()
        assert row is not None
        return row

    broken = set()
    for call in tree.all("FUNCEXPR", "OPEXPR", "SCALARARRAYOPEXPR", "DISTINCTEXPR"):
        name, kind = volatility(call.fields.get("funcid") or call.fields["opfuncid"])
        if kind == "s" and call.has("VAR"):
            broken.add(f"{name} of a column is only stable")
    for cast in tree.all("COERCEVIAIO"):
        if not cast.has("VAR"):
            continue
        row = connection.execute(
            "select typoutput::oid, (select typinput::oid from pg_type where oid = %s) "
            "from pg_type where oid = %s",
            [int(cast.fields["resulttype"]), int(cast.children[0].type)],
        ).fetchone()
        assert row is not None
        for name, kind in map(volatility, row):
            if kind == "s":
                broken.add(f"{name} of a column is only stable")
    for update in tree.all("QUERY"):
        if update.fields.get("commandType") in UPDATE:
            for call in update.own("FUNCEXPR"):
                name, kind = volatility(call.fields["funcid"])
                if kind == "v":
                    broken.add(f"{name} in an update is volatile")
    return broken


def test_the_writing_statements_keep_to_the_rules(database: Database) -> None:
    with database.connect() as connection:
        for name, statement in STATEMENTS.items():
            broken = broken_by_a_write(
                connection, statement.numbered, list(statement.types.values())
            )
            assert not broken, f"{name}: {broken}"


WRITE = "update ticket_allocations set status = 'expired' where"


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (f"{WRITE} status::text = 'reserved'", "enum_out of a column is only stable"),
        (
            "update ticket_allocations set status = user_fingerprint::allocation_status",
            "enum_in of a column is only stable",
        ),
        (
            f"{WRITE} expires_at + interval '1 day' < now()",
            "timestamptz_pl_interval of a column is only stable",
        ),
        (
            f"{WRITE} sha256(convert_to(user_fingerprint, 'UTF8')) = ''",
            "convert_to of a column is only stable",
        ),
        (f"{WRITE} expires_at < clock_timestamp()", "clock_timestamp in an update is volatile"),
        (
            "with changed as (update events set name = date::text returning id) "
            "select id from changed",
            "timestamptz_out of a column is only stable",
        ),
    ],
)
def test_a_writing_statement_that_breaks_a_rule_is_named(
    database: Database, sql: str, rule: str
) -> None:
    with database.connect() as connection:
        assert broken_by_a_write(connection, sql.encode(), []) == {rule}


# The files of sql/, by their words


def broken_by_words(name: str, sql: str) -> Iterator[str]:
    """Yield what the words of a statement break."""
    words = " ".join(without_comments(sql).split())
    for rule, pattern in {
        "a schema is named": r"(?<!distinct )(?<!epoch )\b(from|join|into|update) \w+ ?\."
        r"|\w\.\w+\(|::\w+\.",
        "a temporary table": r"\b(temp|temporary|pg_temp)\b",
        "an advisory lock": r"\bpg_\w*advisory\w*",
        "listen or notify": r"\b(listen|unlisten|notify|pg_notify)\b",
    }.items():
        if re.search(pattern, words, re.IGNORECASE):
            yield f"{name}: {rule}"


def test_the_files_keep_to_the_rules() -> None:
    broken = [
        rule
        for name, statement in STATEMENTS.items()
        for rule in broken_by_words(name, statement.numbered.decode())
    ]
    # It runs on the coordinator, before any request.
    assert broken == ["lock_migrations: an advisory lock"]


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("select id from public.events", "a schema is named"),
        ("insert into cell_one.events (name) values (:'name'::text)", "a schema is named"),
        ("update public . events set name = 'x'", "a schema is named"),
        ("select public.actor_name(null, 'x')", "a schema is named"),
        ("select null::public.allocation_status", "a schema is named"),
        ("create temporary table held as select 1", "a temporary table"),
        ("select pg_advisory_xact_lock(1)", "an advisory lock"),
        ("listen news", "listen or notify"),
        ("select pg_notify('news', 'x')", "listen or notify"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(sql: str, rule: str) -> None:
    _, numbered, _ = translate("bad", f"{sql};")
    assert list(broken_by_words("bad", numbered.decode())) == [f"bad: {rule}"]


# The migrations, by their words


def broken_by_a_migration(sql: str) -> Iterator[str]:
    """Yield what the statements of a migration break."""
    for statement in without_comments(sql).split(";"):
        if found := re.search(r"\binsert\s+into\s+\w+\s*\([^)]*\)\s*select\b", statement):
            ready = set(re.findall(r"(\w+)\s+as\s+materialized\s*\(", statement))
            if not set(re.findall(r"\b(?:from|join)\s+(\w+)", statement[found.end() :])) <= ready:
                yield "insert … select reads through no materialized CTE"
        if re.search(r"\balter\s+table\b", statement):
            commands = re.findall(r"\b(?:add|drop|alter)\s+(?:column|constraint)\b", statement)
            if any("constraint" in command for command in commands) and len(commands) > 1:
                yield "a constraint is added in a command with others"
            if re.search(r"\badd\s+column\b[^;]*\b(check|unique|references)\b", statement):
                yield "a column is added with its constraint"


@pytest.mark.parametrize("name", migration_names())
def test_a_migration_keeps_to_the_rules(name: str) -> None:
    for file in (MIGRATIONS / f"{name}.sql", MIGRATIONS / f"{name}.rollback.sql"):
        assert list(broken_by_a_migration(file.read_text())) == []


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (
            "insert into event_private (event_id) select id from events;",
            "insert … select reads through no materialized CTE",
        ),
        (
            "with old as (select id from events) "
            "insert into event_private (event_id) select id from old;",
            "insert … select reads through no materialized CTE",
        ),
        (
            "with old as materialized (select id from events) insert into event_private (event_id) "
            "select old.id from old join events on events.id = old.id;",
            "insert … select reads through no materialized CTE",
        ),
        (
            "alter table events add column color text, "
            "add constraint events_have_a_color unique (color);",
            "a constraint is added in a command with others",
        ),
        (
            "alter table events add column color text check (color <> '');",
            "a column is added with its constraint",
        ),
    ],
)
def test_a_migration_that_breaks_a_rule_is_named(sql: str, rule: str) -> None:
    assert rule in list(broken_by_a_migration(sql))


# The settings of the connections


def differing(ours: str, theirs: str) -> set[str]:
    """Return the names of the settings in which two sets of options differ."""

    def read(options: str) -> set[tuple[Any, ...]]:
        return {tuple(one.split("=")) for one in re.findall(r"-c (\S+)", options)}

    return {name for name, _ in read(ours) ^ read(theirs)}


def test_the_write_path_has_the_same_settings_on_citus_but_for_the_kind_of_plan() -> None:
    assert differing(PLAN_OPTIONS, PLAN_OPTIONS_ON_CITUS) == {"plan_cache_mode"}
    assert "plan_cache_mode" not in PLAN_OPTIONS_ON_CITUS


@pytest.mark.parametrize(
    "theirs", ["", PLAN_OPTIONS, f"{PLAN_OPTIONS_ON_CITUS} -c work_mem=1MB", "-c jit=off"]
)
def test_another_difference_of_settings_is_noticed(theirs: str) -> None:
    assert differing(PLAN_OPTIONS, theirs) != {"plan_cache_mode"}
