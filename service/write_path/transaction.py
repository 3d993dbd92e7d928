"""Transactions: one batch of changes is one transaction, sent in one pipeline and one round trip.

The order of the statements guarantees that no event is oversold. The first statement locks the
events. The next expires the holds that are due. Then there is one statement for each kind of change
in the batch, which also writes the rows of the ledger. Each statement sees the effects of those
before it, and reads the clock while the locks are held.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from msgspec.structs import replace

from service import limits, metrics
from service.database.pipeline import Pipeline, StatementCanceled, UnreadableRows
from service.database.statements import Statements
from service.rows import Event, Uuid
from service.write_path.changes import (
    KINDS_IN_ORDER,
    Change,
    Expire,
    Join,
    Leave,
    Offer,
    Reacquire,
    Reserve,
    Row,
    Update,
)
from service.write_path.outcomes import Outcome

log = logging.getLogger(__name__)

# Statements that run before the changes: match_event only for an update with states.
BEFORE = ("limit_waits", "lock_events", "match_event", "expire_tickets")
# Statements that run after the changes, in the batches that need them.
AFTER = ("find_replays", "find_events")


class BatchResult(NamedTuple):
    """What has become of a batch."""

    # The outcome of each change, in their order.
    outcomes: list[Outcome]
    # The events whose waiting list may get an offer now.
    offerable: set[Uuid]


def is_lock_timeout(error: psycopg.Error) -> bool:
    """Whether a transaction did not get its locks in time.

    lock_timeout limits each wait, and ``lock_events`` may wait several times: first in the queue of
    those who want an event, then for its lock, then for the next event. statement_timeout limits
    all of them together.
    """
    return isinstance(error, psycopg.errors.LockNotAvailable) or (
        isinstance(error, StatementCanceled) and error.statement == "lock_events"
    )


class Transactions:
    """Carries out batches of changes."""

    def __init__(
        self,
        statements: Statements,
        hold_seconds: int,
        max_hold_seconds: int,
        max_waiting_entries: int,
        *,
        behind_pooler: bool = False,
    ) -> None:
        # One hold's length has two parameters: reserve_tickets takes an interval, and
        # extend_reservations seconds.
        self._constants = {
            "hold": f"{hold_seconds} s",
            "hold_seconds": hold_seconds,
            "max_hold_seconds": max_hold_seconds,
            "max_entries": max_waiting_entries,
        }
        names = [*BEFORE, *(kind.statement for kind in KINDS_IN_ORDER), *AFTER]
        self._statements = {name: statements[name] for name in names}
        self._pipeline = Pipeline(list(self._statements.values()), unprepared=behind_pooler)

    async def run(
        self, connection: psycopg.AsyncConnection, changes: Sequence[Change], lock_seconds: float
    ) -> BatchResult:
        """Carry out a batch and return the outcome of each change.

        The batch is committed if this returns, and rolled back if it raises, except for errors
        that leave the outcome unknown (``leaves_outcome_unknown``).

        Raises:
            psycopg.Error: an error of PostgreSQL or of the connection.
            NotSent: the connection ended before anything was sent.
        """
        # The changes of each kind, by their indexes in the batch.
        kinds = {
            kind: indexes
            for kind in KINDS_IN_ORDER
            if (indexes := [n for n, change in enumerate(changes) if type(change) is kind])
        }
        steps = self._steps(changes, kinds, lock_seconds)
        results = await self._pipeline.run(
            connection, [(self._statements[name], values) for name, values in steps]
        )
        try:
            rows = {name: result for (name, _), result in zip(steps, results, strict=True)}
            outcomes = _collect_outcomes(changes, kinds, rows)
            _update_metrics(changes, outcomes, rows)
            offerable = _find_offerable(changes, rows)
        except Exception as error:
            # The batch is committed: the changes must not be reported as not done.
            log.exception("the outcomes of a committed batch could not be read")
            raise UnreadableRows("the outcomes could not be read") from error
        return BatchResult(outcomes, offerable)

    def _steps(
        self,
        changes: Sequence[Change],
        kinds: Mapping[type[Change], Sequence[int]],
        lock_seconds: float,
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return the statements of a transaction, in their order, with their parameters."""
        parameters = {
            kind: kind.parameters([changes[n] for n in indexes]) for kind, indexes in kinds.items()
        }
        # How many available tickets the changes need in each event.
        needed: Counter[Uuid] = Counter()
        for change in changes:
            if change.event_id:
                needed[change.event_id] += change.tickets_needed
        targets = {
            "event_ids": list(needed),
            "ticket_ids": list({change.ticket_id for change in changes if change.ticket_id}),
            "reservation_ids": list({c.reservation_id for c in changes if c.reservation_id}),
        }
        waits = {
            "lock_timeout": f"{lock_seconds} s",
            "statement_timeout": f"{limits.STATEMENT_SECONDS} s",
        }
        constants = {**self._constants, "most": limits.SWEEP_TICKETS}
        if lines := {change.event_id for change in changes if change.offers_tickets}:
            parameters[Offer] = {"event_ids": list(lines)}

        steps: list[tuple[str, dict[str, Any]]] = [
            ("limit_waits", waits),
            ("lock_events", targets),
            *(
                ("match_event", change.match_parameters())
                for change in changes
                if isinstance(change, Update) and change.states is not None
            ),
            ("expire_tickets", {**targets, **constants, "quantities": list(needed.values())}),
            *(
                (kind.statement, {**parameters[kind], **constants})
                for kind in KINDS_IN_ORDER
                if kind in parameters
            ),
        ]
        if Reserve in kinds and any(parameters[Reserve]["idempotency_keys"]):
            steps.append(("find_replays", parameters[Reserve]))
        if Update in kinds:
            steps.append(("find_events", targets))
        return steps


def _find_offerable(changes: Sequence[Change], rows: Mapping[str, list[Row]]) -> set[Uuid]:
    """Return the events whose waiting list may get an offer after a committed batch.

    They have a line and tickets that are, or may have become, available. If the batch itself has
    offered what there was, only those in which more can be offered.
    """
    releases = bool(rows["expire_tickets"]) or any(change.releases_tickets for change in changes)
    offered = {change.event_id for change in changes if change.offers_tickets}
    has_more = {event_id for event_id, *_, more in rows.get(Offer.statement, ()) if more}
    return has_more | {
        event_id
        for event_id, _, has_line, available in rows["lock_events"]
        if has_line and (available > 0 or releases) and event_id not in offered
    }


def _update_metrics(
    changes: Sequence[Change], outcomes: Sequence[Outcome], rows: Mapping[str, list[Row]]
) -> None:
    """Count the tickets by the status that a committed batch gave them; record its lock wait."""
    moved: Counter[str] = Counter()
    for change, outcome in zip(changes, outcomes, strict=True):
        if outcome.code == "granted" and change.new_status:
            moved[change.new_status] += outcome.tickets_moved
        if outcome.code == "granted" and isinstance(change, Join | Leave):
            metrics.WAITING_ENTRIES.labels("joined" if type(change) is Join else "left").inc()
        if isinstance(change, Reacquire):
            _count_late_payment(outcome)
    moved["expired"] += sum(tickets for _, tickets in rows["expire_tickets"])
    for _, _, is_offered, waited, _ in rows.get(Offer.statement, ()):
        metrics.WAITING_ENTRIES.labels("offered" if is_offered else "unservable").inc()
        if is_offered:
            metrics.OFFER_WAIT_SECONDS.observe(waited)
    for new_status, tickets in moved.items():
        if tickets:
            metrics.TICKETS.labels(new_status).inc(tickets)
    metrics.LOCK_WAIT_SECONDS.observe(
        max((waited for _, waited, *_ in rows["lock_events"]), default=0.0)
    )


def _count_late_payment(outcome: Outcome) -> None:
    """Count a payment that came after its hold had expired by how it ended."""
    if outcome.tickets_reacquired:
        metrics.LATE_PAYMENTS.labels("saved").inc()
    elif outcome.code in ("hold_expired", "limit_reached"):
        metrics.LATE_PAYMENTS.labels("too_late").inc()


def _collect_outcomes(
    changes: Sequence[Change],
    kinds: Mapping[type[Change], Sequence[int]],
    rows: Mapping[str, list[Row]],
) -> list[Outcome]:
    """Return the outcome of each change, in their order, from the rows of all statements."""
    # What expire_tickets and offer_tickets return is not about these changes.
    outcomes = {
        n: Outcome("granted")
        for n, change in enumerate(changes)
        if isinstance(change, Expire | Offer)
    }
    for kind, indexes in kinds.items():
        for index_in_kind, outcome in kind.read_outcomes(rows[kind.statement]):
            outcomes[indexes[index_in_kind]] = outcome
    # For a replay, reserve_tickets returns no tickets; find_replays has them, or a refusal.
    for index_in_kind, outcome in Change.read_outcomes(rows.get("find_replays", ())):
        if outcomes[kinds[Reserve][index_in_kind]].code == "replayed":
            outcomes[kinds[Reserve][index_in_kind]] = outcome
    if updated := rows.get("find_events"):
        outcomes[0] = replace(outcomes[0], event=Event(*updated[0]))  # an update runs alone
        if outcomes[0].code == "more_to_expire" and not rows["expire_tickets"]:
            # Holds are due, but none could expire: somebody has locked their rows in psql.
            outcomes[0] = Outcome("busy")
    return [outcomes[n] for n in range(len(changes))]  # a KeyError if a statement left one out
