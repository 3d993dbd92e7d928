"""The pipeline: sends all statements of a transaction at once, and reads all their results.

psycopg's own pipeline sends the statements one by one, whenever the event loop runs it. Under
load that takes long, and meanwhile PostgreSQL holds the event's lock and waits for the next
statement. Here all statements are in libpq's buffer before the first is sent.

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
from psycopg.errors import Diagnostic

from service.database.statements import Statement

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
# A statement with its parameters by name.
BoundStatement = tuple[Statement, Mapping[str, Any]]
# The name of a statement, and the function that sends it.
Command = tuple[str, Callable[[], None]]

# Each transaction sets its isolation level, because a pooler drops the options of connections.
BEGIN = b"begin isolation level read committed"

_SUCCESSFUL = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.PIPELINE_SYNC)


class NotReplicated(psycopg.OperationalError):
    """A transaction is committed, but the standby did not confirm it: a failover may lose it.

    PostgreSQL reports this as a warning after the commit. This error has no SQLSTATE, so the
    outcome counts as unknown (``leaves_outcome_unknown``).
    """


class UnreadableRows(psycopg.OperationalError):
    """A transaction is committed, but the rows of its statements could not be read.

    This error has no SQLSTATE, so the outcome counts as unknown.
    """


class StatementCanceled(psycopg.errors.QueryCanceled):
    """PostgreSQL has canceled a statement of a transaction, because of statement_timeout.

    Args:
        statement: its name.
        result: the error that PostgreSQL reported.
    """

    def __init__(self, statement: str, result: pq.abc.PGresult) -> None:
        super().__init__(result.get_error_message(), info=result)
        self.statement = statement


class NotSent(Exception):
    """The connection ended before the transaction was sent, so nothing was done."""


class Pipeline:
    """Runs transactions.

    Its statements are prepared once for each connection. Behind a pooler nothing is prepared and
    the whole text is sent, because each transaction may run on another connection of the server.

    Args:
        statements: those to prepare; may be empty with ``unprepared``.
        unprepared: whether to send the statements without preparing them.
    """

    def __init__(self, statements: Sequence[Statement], *, unprepared: bool = False) -> None:
        self._statements = statements
        self._unprepared = unprepared
        # The connections that are prepared, each with the warnings of its current transaction. A
        # warning says that the standby did not confirm the commit.
        self._warnings: WeakKeyDictionary[AsyncConnection, list[Diagnostic]] = WeakKeyDictionary()

    async def run(
        self, connection: AsyncConnection, statements: Sequence[BoundStatement]
    ) -> list[list[Row]]:
        """Run statements in one transaction, and return the rows of each.

        Raises:
            psycopg.Error: the first error; the transaction is rolled back, unless the outcome is
                unknown (``leaves_outcome_unknown``).
            NotReplicated: it is committed, but not confirmed by the standby.
            UnreadableRows: it is committed, but its rows cannot be read.
            NotSent: nothing was sent.
        """
        if connection not in self._warnings:
            await self._prepare(connection)
        warnings = self._warnings[connection]
        warnings.clear()
        pgconn = connection.pgconn
        transformer = Transformer(connection)
        commands: list[Command] = [("begin", partial(pgconn.send_query_params, BEGIN, None))]
        for statement, values in statements:
            parameters = [values[name] for name in statement.types]
            dumped = transformer.dump_sequence(parameters, [PyFormat.TEXT] * len(parameters))
            if self._unprepared:
                send = partial(pgconn.send_query_params, statement.numbered, dumped)
            else:
                send = partial(pgconn.send_query_prepared, statement.name.encode(), dumped)
            commands.append((statement.name, send))
        commands.append(("commit", partial(pgconn.send_query_params, b"commit", None)))
        _, *results, _ = await self._exchange(connection, commands)
        if warnings:
            raise NotReplicated("the standby has not confirmed the commit")
        try:
            return [_read_rows(transformer, result) for result in results]
        except Exception as error:
            log.exception("the rows of a committed transaction could not be read")
            raise UnreadableRows("the rows could not be read") from error

    async def _prepare(self, connection: AsyncConnection) -> None:
        """Prepare the statements on a connection, and start collecting its warnings."""
        pgconn = connection.pgconn
        if not self._unprepared:
            prepare = [
                (each.name, partial(pgconn.send_prepare, each.name.encode(), each.numbered))
                for each in self._statements
            ]
            try:
                await self._exchange(connection, prepare)
            except psycopg.Error as error:
                # Some statements may be prepared, and preparing them again would fail.
                await connection.close()
                if isinstance(error, psycopg.OperationalError):
                    raise NotSent from error
                raise
        warnings: list[Diagnostic] = []

        def collect_warning(notice: Diagnostic) -> None:
            # The warning is recognized by the function in PostgreSQL's source that reports it: its
            # text depends on the server's language.
            if notice.source_function == "SyncRepWaitForLSN":
                warnings.append(notice)

        connection.add_notice_handler(collect_warning)
        self._warnings[connection] = warnings

    async def _exchange(
        self, connection: AsyncConnection, commands: Sequence[Command]
    ) -> list[pq.abc.PGresult]:
        """Send commands and return their results; roll back if one has failed."""
        pgconn = connection.pgconn
        pgconn.enter_pipeline_mode()
        results = await connection.wait(_send_and_fetch(pgconn, [send for _, send in commands]))
        pgconn.exit_pipeline_mode()
        for number, result in enumerate(results):
            if result.status not in _SUCCESSFUL:
                if pgconn.transaction_status == pq.TransactionStatus.INERROR:
                    await connection.rollback()
                error = psycopg.errors.error_from_result(result)
                if isinstance(error, psycopg.errors.QueryCanceled):
                    raise StatementCanceled(commands[number][0], result)
                raise error
        return results


def _send_and_fetch(
    pgconn: pq.abc.PGconn, commands: Sequence[Callable[[], None]]
) -> PQGen[list[pq.abc.PGresult]]:
    """Send all commands, and wait for all results."""
    for command in commands:
        command()
    pgconn.pipeline_sync()
    while pgconn.flush():  # usually the socket accepts everything at once
        if (yield waiting.Wait.RW) & waiting.Ready.R:
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    while True:
        while pgconn.is_busy():
            yield waiting.Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            continue  # None separates the results of two commands
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)


def _read_rows(transformer: "psycopg.abc.Transformer", result: pq.abc.PGresult) -> list[Row]:
    transformer.set_pgresult(result)
    rows: list[Row] = transformer.load_rows(0, result.ntuples, tuple)
    return rows
