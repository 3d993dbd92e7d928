"""Batches and a write path without a running service."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg

from service.database.connections import ADAPTERS, PLAN_OPTIONS, create_pool
from service.database.queries import Queries
from service.database.statements import load_statements
from service.limits import READ_CONNECTIONS, WRITE_CONNECTIONS
from service.rows import Uuid
from service.settings import resource
from service.write_path.changes import Change, Reserve
from service.write_path.outcomes import Outcome
from service.write_path.path import WritePath
from service.write_path.transaction import Transactions
from tests.support.database import Database

STATEMENTS = load_statements(resource("sql"))
T = TypeVar("T")


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


def run_on_write_path(
    database: Database, work: Callable[[WritePath], Awaitable[T]], queue_limit: int = 500
) -> T:
    """Run ``work`` on a new write path."""

    async def run() -> T:
        async with (
            create_pool(database.dsn, "writes", WRITE_CONNECTIONS, 500, PLAN_OPTIONS) as pool,
            create_pool(database.dsn, "reads", READ_CONNECTIONS, 500) as reads,
        ):
            transactions = Transactions(STATEMENTS, 900, 1800, 100_000)
            queries = Queries(reads, STATEMENTS)
            path = WritePath(
                pool, transactions, queries, across_events=True, queue_limit=queue_limit
            )
            return await work(path)

    return asyncio.run(run())


def outcome_codes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the code of each outcome."""
    return [outcome.code for outcome in outcomes]


def reserve(event: Uuid, quantity: int = 1, user: str = "alice", key: str = "") -> Reserve:
    """Return a change that reserves tickets."""
    return Reserve(event, quantity, user, key)
