"""One batch of changes as one transaction, sent in one pipeline: one round trip in all.

The order is the guarantee. First the locks, in a statement of their own; then what is due
expires; then the changes, kind by kind, each with its row of the ledger. Each statement sees what
those before it have done, and reads the clock after the lock was held.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psycopg

from service import limits, metrics
from service.database.pipeline import NotRead, Pipeline, Sent
from service.database.statements import Statements
from service.rows import Event
from service.write_path.changes import (
    IN_ORDER,
    Change,
    Expire,
    Outcome,
    Reserve,
    Row,
    Update,
    read_outcomes,
)

log = logging.getLogger(__name__)

BEFORE = ("limit_waits", "lock_events", "expire_tickets")
AFTER = ("find_replays", "find_events")
"""The statements of every batch, and of some, around those of its kinds."""


class Transactions:
    """Carries out batches, each on a connection that is given to it."""

    def __init__(self, statements: Statements, hold_seconds: int, *, pooled: bool = False) -> None:
        self._hold = {"hold": f"{hold_seconds} s"}
        names = [*BEFORE, *(kind.statement for kind in IN_ORDER), *AFTER]
        self._statements = {name: statements[name] for name in names}
        self._pipeline = Pipeline(list(self._statements.values()), pooled=pooled)

    async def run(
        self, connection: psycopg.AsyncConnection, changes: Sequence[Change], lock_seconds: float
    ) -> list[Outcome]:
        """Carry out a batch and return the outcome of each change, in their order.

        Nothing is committed unless this returns, but for a connection that breaks on the way:
        then nobody knows.

        Raises:
            psycopg.Error: what PostgreSQL or the connection had to say.
        """
        kinds = [
            (kind, places)
            for kind in IN_ORDER
            if (places := [n for n, change in enumerate(changes) if type(change) is kind])
        ]
        arrays = {kind: kind.arrays([changes[n] for n in places]) for kind, places in kinds}
        replays = any(arrays[Reserve]["idempotency_keys"]) if Reserve in arrays else False
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

        steps: list[tuple[str, dict[str, Any]]] = [
            ("limit_waits", waits),
            ("lock_events", concerned),
            ("expire_tickets", {**concerned, "most": most}),
            *((kind.statement, {**arrays[kind], **self._hold}) for kind, _ in kinds),
        ]
        if replays:
            steps.append(("find_replays", arrays[Reserve]))
        if Update in arrays:
            steps.append(("find_events", concerned))
        sent: list[Sent] = [(self._statements[name], values) for name, values in steps]
        told = await self._pipeline.run(connection, sent)
        try:
            rows = {name: found for (name, _), found in zip(steps, told, strict=True)}
            outcomes = _outcomes(changes, kinds, rows)
            _count(changes, outcomes, rows)
        except Exception as error:
            # The tickets have moved: it must not look as if nothing had been done.
            log.exception("the outcomes of a committed batch could not be read")
            raise NotRead("its outcomes could not be read") from error
        return outcomes


def _count(
    changes: Sequence[Change], outcomes: Sequence[Outcome], rows: dict[str, list[Row]]
) -> None:
    """Take down what was committed, and how long it waited for its locks."""
    moved: Counter[str] = Counter()
    for change, outcome in zip(changes, outcomes, strict=True):
        if outcome.code == "granted":
            moved[change.becomes] += outcome.tickets_moved
    moved["expired"] += sum(tickets for _, tickets in rows["expire_tickets"])
    for becomes, tickets in moved.items():
        if tickets:
            metrics.TICKETS.labels(becomes).inc(tickets)
    metrics.LOCK_SECONDS.observe(max((waited for _, waited in rows["lock_events"]), default=0.0))


def _outcomes(
    changes: Sequence[Change],
    kinds: Sequence[tuple[type[Change], Sequence[int]]],
    rows: dict[str, list[Row]],
) -> list[Outcome]:
    """Read the rows of the statements: one outcome for each change, in their order."""
    outcomes: list[Outcome | None] = [
        Outcome("granted") if type(change) is Expire else None for change in changes
    ]
    for kind, places in kinds:
        for n, outcome in kind.outcomes(rows[kind.statement]):
            outcomes[places[n]] = outcome
        if kind is Reserve:
            # What a key stands for is told by find_replays, whoever reserved it.
            for n, outcome in read_outcomes(rows.get("find_replays", ())):
                before = outcomes[places[n]]
                if before is not None and before.code == "replayed":
                    outcomes[places[n]] = outcome
    told = [outcome for outcome in outcomes if outcome is not None]
    assert len(told) == len(changes), "a statement has passed over a request"  # noqa: S101
    for row in rows.get("find_events", ()):
        (outcome,) = told
        told = [Outcome(outcome.code, detail=outcome.detail, event=Event(*row))]
    return told
