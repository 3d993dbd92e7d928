"""One batch of changes as one transaction, sent in one pipeline: one round trip in all.

The order is the guarantee. First the locks, in a statement of their own; then what is due
expires; then the changes, kind by kind; last the ledger. Each statement sees what those before
it have done, and reads the clock after the lock was held.
"""

from collections.abc import Sequence

import psycopg

from service import limits
from service.changes import (
    IN_ORDER,
    Change,
    Expire,
    Outcome,
    Reserve,
    Row,
    Update,
    read_outcomes,
)
from service.rows import Event
from service.statements import Statements

Cursor = psycopg.AsyncCursor[Row]


class Transactions:
    """Carries out batches, each on a connection that is given to it."""

    def __init__(self, statements: Statements, hold_seconds: int) -> None:
        self._hold = {"hold": f"{hold_seconds} s"}
        self._limit_waits = statements["limit_waits"].query
        self._lock_events = statements["lock_events"].query
        self._expire_tickets = statements["expire_tickets"].query
        self._carry_out = {kind: statements[kind.statement].query for kind in IN_ORDER}
        self._find_repeats = statements["find_repeats"].query
        self._record_changes = statements["record_changes"].query
        self._find_events = statements["find_events"].query

    async def run(
        self, connection: psycopg.AsyncConnection, changes: Sequence[Change], lock_seconds: float
    ) -> list[Outcome]:
        """Carry out a batch and return the outcome of each change, in their order.

        Nothing is committed unless this returns, but for a connection that breaks on the way:
        then nobody knows.

        Raises:
            psycopg.Error: what PostgreSQL or the connection had to say.
        """
        concerned = {
            "event_ids": list({change.event for change in changes if change.event}),
            "ticket_ids": list({change.ticket for change in changes if change.ticket}),
            "reservation_ids": list({c.reservation for c in changes if c.reservation}),
        }
        waits = {
            "lock_timeout": f"{lock_seconds} s",
            "statement_timeout": f"{limits.STATEMENT_SECONDS} s",
        }
        wanted = sum(change.tickets_wanted for change in changes)
        most = min(max(limits.SWEEP_TICKETS, wanted), limits.MAX_INTEGER)

        async with connection.pipeline(), connection.transaction():
            await connection.execute(self._limit_waits, waits)
            await connection.execute(self._lock_events, concerned)
            await connection.execute(self._expire_tickets, {**concerned, "most": most})
            sent = [
                (kind, places, await self._send(connection, kind, [changes[n] for n in places]))
                for kind in IN_ORDER
                if (places := [n for n, change in enumerate(changes) if type(change) is kind])
            ]
            await connection.execute(self._record_changes, concerned)
            found = None
            if any(kind is Update for kind, _, _ in sent):
                found = await connection.execute(self._find_events, concerned)

        outcomes: list[Outcome | None] = [
            Outcome("granted") if type(change) is Expire else None for change in changes
        ]
        for kind, places, (cursor, repeats) in sent:
            for n, outcome in kind.outcomes(await cursor.fetchall()):
                outcomes[places[n]] = outcome
            # What a key stands for is told by find_repeats, whoever reserved it.
            for n, outcome in read_outcomes(await repeats.fetchall() if repeats else ()):
                before = outcomes[places[n]]
                if before is not None and before.word == "replayed":
                    outcomes[places[n]] = outcome
        told = [outcome for outcome in outcomes if outcome is not None]
        assert len(told) == len(changes), "a statement has passed over a request"  # noqa: S101
        if found is not None and (row := await found.fetchone()):
            (outcome,) = told
            told = [Outcome(outcome.word, detail=outcome.detail, event=Event(*row))]
        return told

    async def _send(
        self, connection: psycopg.AsyncConnection, kind: type[Change], changes: Sequence[Change]
    ) -> tuple[Cursor, Cursor | None]:
        """Send the statement of one kind, and behind keyed reservations what finds repeats."""
        arrays = kind.arrays(changes)
        if kind is not Reserve:
            return await connection.execute(self._carry_out[kind], arrays), None
        reserved = await connection.execute(self._carry_out[kind], {**arrays, **self._hold})
        if not any(arrays["idempotency_keys"]):
            return reserved, None
        return reserved, await connection.execute(self._find_repeats, arrays)
