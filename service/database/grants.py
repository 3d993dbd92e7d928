"""Grants: the role that the service connects as has what it needs, and no more."""

import psycopg

from service.database.statements import Statements


class TooManyRights(Exception):
    """A role may do more than no grant of ours could take away. The text is one line."""


def grant(dsn: str, statements: Statements, role: str) -> list[str]:
    """Give a role what the service needs, take away what else it had, and return how.

    Raises:
        TooManyRights: when the role is the owner's or a superuser's, and when something is left
            that it has by another role or by PUBLIC; then what we could do is done.
        psycopg.Error: when there is no such role, or when we may not grant.
    """
    asked = {"role": role}
    with psycopg.connect(dsn) as connection:
        grants = connection.execute(statements["list_grants"].query, asked).fetchall()
        if not grants:
            raise TooManyRights(
                f"{role} owns the tables or is a superuser: the service needs a role of its own"
            )
        for statement, _ in grants:
            connection.execute(statement)
    with psycopg.connect(dsn) as connection:
        excess = connection.execute(statements["list_excess_rights"].query, asked).fetchall()
    if excess:
        left = ", ".join(right for (right,) in excess)
        raise TooManyRights(f"{role} still has, by another role or by PUBLIC: {left}")
    return [statement for statement, _ in grants]


def lacks_rights(connection: psycopg.Connection, statements: Statements) -> bool:
    """Whether the role of a connection lacks anything that the service needs."""
    asked = {"role": connection.info.user}
    rows = connection.execute(statements["list_grants"].query, asked).fetchall()
    return any(is_missing for _, is_missing in rows)
