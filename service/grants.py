"""Grants: the role that the service connects as has what it needs, and no more."""

import psycopg

from service.statements import Statements


class NothingToKeep(Exception):
    """A role owns the tables, or may become who does: no grant would bound it."""


def grant(dsn: str, statements: Statements, role: str) -> list[str]:
    """Give a role what the service needs, take away what else it had, and return how.

    Raises:
        NothingToKeep: when the role is the owner's or a superuser's.
        psycopg.Error: when there is no such role, or when we may not grant.
    """
    with psycopg.connect(dsn) as connection:
        grants = connection.execute(statements["list_grants"].query, {"role": role}).fetchall()
        if not grants:
            raise NothingToKeep(
                f"{role} owns the tables or is a superuser: the service needs a role of its own"
            )
        for statement, _ in grants:
            connection.execute(statement)
    return [statement for statement, _ in grants]


def lacks_rights(connection: psycopg.Connection, statements: Statements) -> bool:
    """Whether the role of a connection lacks anything that the service needs."""
    asked = {"role": connection.info.user}
    rows = connection.execute(statements["list_grants"].query, asked).fetchall()
    return any(is_missing for _, is_missing in rows)
