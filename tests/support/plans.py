"""Query plans: prepare a statement as the service does, and read what its plan goes through."""

from collections.abc import Iterator
from typing import Any

import psycopg

from service.database.statements import Statement, load_statements
from service.settings import resource

STATEMENTS = load_statements(resource("sql"))

# A value of each type, for the call that makes the plan.
EMPTY = {
    "interval": "1 s",
    "integer": "1",
    "bigint": "0",
    "text": "",
    "timestamptz": "2030-01-01",
    "uuid": "018f0000-0000-7000-8000-000000000001",
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return all nodes of a plan."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def gone_through(node: dict[str, Any]) -> float:
    """Return how many rows a step has produced or passed over, over all its loops."""
    passed_over = sum(count for key, count in node.items() if key.startswith("Rows Removed"))
    return float((node["Actual Rows"] + passed_over) * node["Actual Loops"])


def plan_statement(connection: psycopg.Connection, statement: Statement) -> None:
    """Prepare a statement and have it planned: the first call makes the generic plan."""
    connection.execute(b"prepare %s as %s" % (statement.name.encode(), statement.numbered))
    nothing = [
        psycopg.sql.Literal("{}" if type_.endswith("[]") else EMPTY[type_])
        for type_ in statement.types.values()
    ]
    connection.execute(execute(statement.name, nothing))


def execute(name: str, arguments: list[psycopg.sql.Literal]) -> psycopg.sql.Composed:
    """Return the call of a prepared statement."""
    return psycopg.sql.SQL("execute {} ({})").format(
        psycopg.sql.Identifier(name), psycopg.sql.SQL(", ").join(arguments)
    )
