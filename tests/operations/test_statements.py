"""The loader of SQL files translates psql variables, and names the file of every error."""

import re
from pathlib import Path

import pytest

from service.cli.sql_headers import BrokenHeader, parse_header, psql_line
from service.database.statements import BrokenStatement, load_statements, translate
from service.settings import resource

STATEMENTS = load_statements(resource("sql"))


def test_a_psql_variable_becomes_a_parameter() -> None:
    query, numbered, types = translate(
        "x", "select :'a'::integer + :'b'::integer[] - :'a'::integer;"
    )
    assert query == b"/* x */ select %(a)s::integer + %(b)s::integer[] - %(a)s::integer"
    assert numbered == b"/* x */ select $1::integer + $2::integer[] - $1::integer"
    assert list(types.items()) == [("a", "integer"), ("b", "integer[]")]


@pytest.mark.parametrize(
    "sql",
    [
        "select ':''a'' ; --' as text",
        "select e'it\\'s :x ;' as text",
        'select 1 as ":x ; ""quoted"""',
        "select $$ :'a' ; $$",
        "select $tag$ $$ :'a' ; $$ $tag$",
        "select 1::integer",
        "select (array[1, 2, 3])[1:2]",
        "select 1 -- a comment; with 'a quote and a semicolon",
        "select 1 /* a comment; with 'a quote, and :none */",
    ],
)
def test_text_that_is_no_psql_variable_is_unchanged(sql: str) -> None:
    query, _, types = translate("x", f"{sql}\n;")
    assert query.decode() == f"/* x */ {sql}"
    assert types == {}


def test_a_percent_sign_is_doubled_only_for_the_driver() -> None:
    query, numbered, _ = translate("x", "select 5 % 3, '%' /* % */;")
    assert query == b"/* x */ select 5 %% 3, '%%' /* %% */"
    assert numbered == b"/* x */ select 5 % 3, '%' /* % */"


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select 1", "does not end"),
        ("select 1; select 2;", "more than one"),
        ("select 1; select 2", "more than one"),
        ("select :a;", "not written as"),
        ('select :"a";', "not written as"),
        ("select :'a';", "not written as"),
        ("select :'a' ::integer;", "not written as"),
        ("select :{?a};", "not written as"),
        ("select (array[1])[1:a];", "not written as"),
        ("select :'a'::integer, :'a'::text;", "casts a in two ways"),
        ("select 1 -- :'a'\n;", "inside a comment"),
        ("select 1 /* :'a' */;", "inside a comment"),
    ],
)
def test_an_invalid_statement_is_refused_with_its_name(sql: str, error: str) -> None:
    with pytest.raises(BrokenStatement, match=f"^x .*{error}"):
        translate("x", sql)


HEADER = """-- x
--
-- Adds.
--
-- parameters
--   a  integer  the one
--   b  integer  the other,
--               on two lines
-- returns: the sum
-- locks: nothing
-- never oversells: it sells nothing
--
-- holdfast psql -v a=1 \\
--   -v b='2' -f sql/x.sql"""
BODY = "select :'a'::integer + :'b'::integer;"


def test_a_file_consists_of_a_header_and_one_statement(tmp_path: Path) -> None:
    (tmp_path / "x.sql").write_text(f"{HEADER}\n\n{BODY}\n")
    statement = load_statements(tmp_path)["x"]
    header = parse_header(statement)
    assert header.summary == "Adds."
    assert statement.types == header.types == {"a": "integer", "b": "integer"}
    assert header.example == {"a": "1", "b": "2"}
    line = "holdfast psql -v a=1 -v 'b=it'\"'\"'s' -f sql/x.sql"
    assert psql_line(statement, Path("sql"), {"b": "it's"}) == line
    assert b"Adds" not in statement.query


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_file_has_a_complete_header(name: str) -> None:
    statement = STATEMENTS[name]
    assert parse_header(statement).summary
    sql = statement.numbered.decode()
    writes = bool(re.search(r"\binsert into \w+|\bupdate \w+( as \w+)?\s+set\b", sql))
    assert ("\n-- never oversells: " in statement.header) == (writes or name == "lock_events")
    locks = writes or "for update" in sql or "advisory_lock" in sql
    assert ("\n-- locks: " in statement.header) == locks


def test_a_malformed_header_does_not_prevent_loading(tmp_path: Path) -> None:
    for header in ("", "-- a comment that is no header\n\n"):
        (tmp_path / "x.sql").write_text(f"{header}{BODY}\n")
        assert load_statements(tmp_path)["x"].types == {"a": "integer", "b": "integer"}


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("-- x\n", "-- y\n", "own name"),
        ("-- x\n--\n", "", "own name"),
        ("-- returns: the sum\n", "", "does not have a line -- returns:"),
        ("-- locks: nothing\n", "-- locks: a\n-- locks: b\n", "has 2 lines -- locks:"),
        ("-- returns: the sum\n-- locks: no", "-- locks: no\n-- returns: no", "in this order"),
        ("--   a  integer  the one\n", "", "has parameters"),
        ("-v a=1", "-v c=1", "must set each parameter"),
        ("sql/x.sql", "sql/y.sql", "does not end in"),
        ("-- holdfast psql", "-- run psql", "must have exactly one psql line"),
        ("--   a  integer", "--   a integer", "an invalid line among its parameters"),
        ("+ :'b'::integer", "", "has parameters"),
        ("+ :'b'::integer", "+ :'b'::bigint", "has parameters"),
        ("+ :'b'", "+ :'c'::integer + :'b'", "has parameters"),
    ],
)
def test_an_invalid_header_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, error: str
) -> None:
    text = f"{HEADER}\n\n{BODY}\n"
    assert old in text
    (tmp_path / "x.sql").write_text(text.replace(old, new, 1))
    statement = load_statements(tmp_path)["x"]
    with pytest.raises(BrokenHeader, match=error):
        parse_header(statement)


def test_a_folder_without_statements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenStatement, match=r"has no \.sql files"):
        load_statements(tmp_path)


def test_a_missing_statement_is_named() -> None:
    with pytest.raises(BrokenStatement, match=r"no_such\.sql is missing"):
        load_statements(resource("sql"))["no_such"]
