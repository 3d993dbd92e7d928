"""The pipeline: a transaction sent to PostgreSQL in one piece, and all its answers read back.

The driver's own pipeline sends a statement when the event loop comes by, and a loop with a crowd to
answer comes by rarely: in between PostgreSQL sat with the event locked, and waited for the
next statement. Here all of them lie in libpq's buffer before the first is sent.

https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, pq, waiting
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer

from service.database.statements import Statement

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
Sent = tuple[Statement, Mapping[str, Any]]

BEGIN = b"begin isolation level read committed"
"""Said in each transaction, since a pooler would not pass it on for the whole connection."""

_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.PIPELINE_SYNC)


class NotReplicated(psycopg.OperationalError):
    """A commit did not wait for its standby to the end: a failover may lose it.

    PostgreSQL says so in a warning, whose text depends on the server's language.
    """


class NotRead(psycopg.OperationalError):
    """A transaction is committed, but what its statements returned could not be read.

    Without an SQLSTATE, as all that leaves open what became of a change.
    """


class NotSent(Exception):
    """A connection ended before anything was sent on it: nothing was done."""


class Pipeline:
    """Sends statements, each as one transaction with others.

    They are prepared by their names, once for each connection. Behind a pooler a connection is
    another server's with each transaction, and they are sent whole.
    """

    def __init__(self, statements: Sequence[Statement], *, pooled: bool = False) -> None:
        self._statements = statements
        self._pooled = pooled
        self._prepared: WeakKeyDictionary[AsyncConnection, list[bool]] = WeakKeyDictionary()
        """The connections that know the statements, and what they have warned of."""

    async def run(self, connection: AsyncConnection, sent: Sequence[Sent]) -> list[list[Row]]:
        """Run statements in one transaction, and return the rows of each.

        Raises:
            psycopg.Error: the first error; nothing is committed. One without an SQLSTATE, or
                of class 08, is the end of the connection, and nobody knows what is committed.
            NotReplicated: it is committed, and nobody knows whether for good.
            NotRead: it is committed, and its rows cannot be read.
            NotSent: nothing was sent.
        """
        if connection not in self._prepared:
            await self._prepare(connection)
        warned = self._prepared[connection]
        warned.clear()
        pgconn = connection.pgconn
        transformer = Transformer(connection)
        commands: list[Callable[[], None]] = [partial(pgconn.send_query_params, BEGIN, None)]
        for statement, values in sent:
            parameters = [values[name] for name in statement.types]
            dumped = transformer.dump_sequence(parameters, [PyFormat.TEXT] * len(parameters))
            if self._pooled:
                commands.append(partial(pgconn.send_query_params, statement.numbered, dumped))
            else:
                name = statement.name.encode()
                commands.append(partial(pgconn.send_query_prepared, name, dumped))
        commands.append(partial(pgconn.send_query_params, b"commit", None))
        _, *results, _ = await self._exchange(connection, commands)
        if warned:
            raise NotReplicated("the standby has not confirmed it")
        try:
            return [_read(transformer, result) for result in results]
        except Exception as error:
            log.exception("the rows of a committed transaction could not be read")
            raise NotRead("its rows could not be read") from error

    async def _prepare(self, connection: AsyncConnection) -> None:
        pgconn = connection.pgconn
        if not self._pooled:
            prepare = [
                partial(pgconn.send_prepare, statement.name.encode(), statement.numbered)
                for statement in self._statements
            ]
            try:
                await self._exchange(connection, prepare)
            except psycopg.Error as error:
                # It may know some of the names, and would not take them again.
                await connection.close()
                if isinstance(error, psycopg.OperationalError):
                    raise NotSent from error
                raise
        warned: list[bool] = []

        def take_down(notice: psycopg.errors.Diagnostic) -> None:
            if notice.source_function == "SyncRepWaitForLSN":
                warned.append(True)

        connection.add_notice_handler(take_down)
        self._prepared[connection] = warned

    async def _exchange(
        self, connection: AsyncConnection, commands: Sequence[Callable[[], None]]
    ) -> list[pq.abc.PGresult]:
        """Send commands, return their results, and undo them all if one has failed."""
        pgconn = connection.pgconn
        pgconn.enter_pipeline_mode()
        results = await connection.wait(_send_and_fetch(pgconn, commands))
        pgconn.exit_pipeline_mode()
        for result in results:
            if result.status not in _GOOD:
                if pgconn.transaction_status == pq.TransactionStatus.INERROR:
                    await connection.rollback()
                raise psycopg.errors.error_from_result(result)
        return results


def _send_and_fetch(
    pgconn: pq.abc.PGconn, commands: Sequence[Callable[[], None]]
) -> PQGen[list[pq.abc.PGresult]]:
    """Put all commands on their way, and wait for all that comes back."""
    for command in commands:
        command()
    pgconn.pipeline_sync()
    while pgconn.flush():  # as a rule the socket takes it all at once
        if (yield waiting.Wait.RW) & waiting.Ready.R:
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    while True:
        while pgconn.is_busy():
            yield waiting.Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            continue  # between the results of two commands
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)


def _read(transformer: "psycopg.abc.Transformer", result: pq.abc.PGresult) -> list[Row]:
    transformer.set_pgresult(result)
    rows: list[Row] = transformer.load_rows(0, result.ntuples, tuple)
    return rows
