"""Batches that are carried out without a running service."""

import asyncio
from collections.abc import Sequence

import psycopg

from service.database.connections import ADAPTERS
from service.database.statements import load_statements
from service.rows import Uuid
from service.settings import resource
from service.write_path.changes import Change, Outcome, Reserve
from service.write_path.transaction import Transactions
from tests.support.database import Database

STATEMENTS = load_statements(resource("sql"))


def carry_out(database: Database, changes: Sequence[Change]) -> list[Outcome]:
    """Carry out one batch as the service does."""

    async def run() -> list[Outcome]:
        connection = await psycopg.AsyncConnection.connect(
            database.dsn, autocommit=True, context=ADAPTERS
        )
        async with connection:
            transactions = Transactions(STATEMENTS, 900, 1800, 100_000)
            return (await transactions.run(connection, changes, 1.0)).outcomes

    return asyncio.run(run())


def outcome_codes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the code of each outcome."""
    return [outcome.code for outcome in outcomes]


def reserve(event: Uuid, quantity: int = 1, user: str = "alice", key: str = "") -> Reserve:
    """Return a change that reserves tickets."""
    return Reserve(event, quantity, user, key)
