"""Grants: gives the service's role the rights that it needs, and no others."""

import psycopg

from service.database.statements import Statements


class TooManyRights(Exception):
    """The role has rights that we cannot revoke. The text is one line."""


def grant(dsn: str, statements: Statements, role: str) -> list[str]:
    """Grant a role the rights that the service needs, and revoke all others.

    Returns:
        The statements that were run.

    Raises:
        TooManyRights: either the role owns the tables or is a superuser, and nothing was changed;
            or the statements were run, and it still has rights through another role or PUBLIC.
        psycopg.Error: there is no such role, or the user of the DSN cannot grant these rights.
    """
    parameters = {"role": role}
    with psycopg.connect(dsn) as connection:
        grants = connection.execute(statements["list_grants"].query, parameters).fetchall()
        if not grants:  # list_grants returns no rows for an owner or a superuser
            raise TooManyRights(
                f"{role} owns the tables or is a superuser: create another role for the service"
            )
        for statement, _ in grants:
            connection.execute(statement)
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(statements["list_excess_rights"].query, parameters).fetchall()
    if rows:
        rights = ", ".join(right for (right,) in rows)
        raise TooManyRights(
            f"{role} still has rights through another role or PUBLIC; revoke them: {rights}"
        )
    return [statement for statement, _ in grants]


def lacks_rights(connection: psycopg.Connection, statements: Statements) -> bool:
    """Whether the role of a connection lacks a right that the service needs."""
    parameters = {"role": connection.info.user}
    rows = connection.execute(statements["list_grants"].query, parameters).fetchall()
    return any(is_missing for _, is_missing in rows)
