"""The loader: psql's notation in, the driver's out, and whatever is wrong refused by name."""

from pathlib import Path

import pytest

from service.settings import resource
from service.statements import BrokenStatement, load_statements, parse_statement


def test_a_variable_of_psql_becomes_a_parameter() -> None:
    statement = parse_statement("x", "select :'a'::integer + :'b'::integer - :'a'::integer;")
    assert statement.query == (b"/* x */ select %(a)s::integer + %(b)s::integer - %(a)s::integer")
    assert statement.numbered == b"/* x */ select $1::integer + $2::integer - $1::integer"
    assert statement.parameters == ("a", "b")


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
    ],
)
def test_what_psql_leaves_alone_is_left_alone(sql: str) -> None:
    statement = parse_statement("x", f"{sql}\n;")
    assert statement.query.decode() == f"/* x */ {sql}"
    assert statement.parameters == ()


def test_a_percent_sign_is_doubled_for_the_driver_alone() -> None:
    statement = parse_statement("x", "select 5 % 3, '%' /* % */;")
    assert statement.query == b"/* x */ select 5 %% 3, '%%' /* %% */"
    assert statement.numbered == b"/* x */ select 5 % 3, '%' /* % */"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("select 1", "not ended"),
        ("select 1; select 2;", "more than one"),
        ("select 1; select 2", "more than one"),
        ("select :a;", "not written as"),
        ('select :"a";', "not written as"),
        ("select 1 -- :'a'\n;", "inside a comment"),
        ("select 1 /* :'a' */;", "inside a comment"),
    ],
)
def test_a_broken_statement_is_refused_by_name(sql: str, why: str) -> None:
    with pytest.raises(BrokenStatement, match=f"x .*{why}"):
        parse_statement("x", sql)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-- y\n\nselect 1;", "own name"),
        ("select 1;", "does not begin"),
        ("-- x\nselect 1;", "does not begin"),
        (f"-- x\n\nselect '{'x' * 4096}';", "longer than"),
    ],
)
def test_a_file_that_breaks_the_rules_is_refused_by_name(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "x.sql").write_text(text)
    with pytest.raises(BrokenStatement, match=f"x.sql .*{why}"):
        load_statements(tmp_path)


def test_a_folder_without_statements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenStatement, match=r"has no \.sql files"):
        load_statements(tmp_path)


def test_a_statement_that_is_missing_is_named() -> None:
    with pytest.raises(BrokenStatement, match=r"no_such\.sql is missing"):
        load_statements(resource("sql"))["no_such"]
