"""The queries: single statements that change no tickets."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits
from service.database.connections import NOT_CONNECTED, UNAVAILABLE, leaves_outcome_unknown
from service.database.pipeline import Pipeline
from service.database.statements import Statement, Statements
from service.refusals import (
    BUSY,
    EVENT_EXISTS,
    OUTCOME_UNKNOWN,
    Refusal,
    contradictory_terms,
)
from service.rows import Check, Event, EventLedger, LastEvent, TicketAllocation, Uuid, WaitingEntry

Row = tuple[Any, ...]

_SECONDS = f"{limits.STATEMENT_SECONDS} s"
_TIMEOUTS = {"lock_timeout": _SECONDS, "statement_timeout": _SECONDS}


class Queries:
    """Runs queries on a pool of their own, so that reads do not delay the write path."""

    def __init__(
        self, pool: AsyncConnectionPool, statements: Statements, *, behind_pooler: bool = False
    ) -> None:
        self._pool = pool
        self._behind_pooler = behind_pooler
        self._pipeline = Pipeline([], unprepared=True)
        self._limit_waits = statements["limit_waits"]
        self._find_events = statements["find_events"]
        self._list_events = statements["list_events"]
        self._create_event = statements["create_event"]
        self._find_tickets = statements["find_tickets"]
        self._find_reservations = statements["find_reservations"]
        self._list_user_tickets = statements["list_user_tickets"]
        self._list_event_tickets = statements["list_event_tickets"]
        self._list_user_tickets_after = statements["list_user_tickets_after"]
        self._list_event_tickets_after = statements["list_event_tickets_after"]
        self._list_ledger = statements["list_ledger"]
        self._find_ledger_at = statements["find_ledger_at"]
        self._list_news = statements["list_news"]
        self._check_events = statements["check_events"]
        self._find_unlocked_events = statements["find_unlocked_events"]
        self._list_due_events = statements["list_due_events"]
        self._list_lines = statements["list_lines"]
        self._find_waiting_entries = statements["find_waiting_entries"]
        self._list_waiting_entries = statements["list_waiting_entries"]
        self._check_server = statements["check_server"]
        self._list_applied_migrations = statements["list_applied_migrations"]
        self._count_waiting_commits = statements["count_waiting_commits"]

    async def find_event(self, event_id: Uuid) -> Event | None:
        """Return an event; None if it does not exist. Expired holds count as available."""
        events = await self.find_events([event_id])
        return events[0] if events else None

    async def find_events(
        self, event_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[Event]:
        """Return the events that exist, in no particular order."""
        rows = await self._execute(self._find_events, {"event_ids": list(event_ids)}, seconds)
        return [Event(*row) for row in rows]

    async def list_events(
        self, dates: str, q: str, available: bool, sale_status: str, page_size: int, skip: int
    ) -> tuple[list[Event], int]:
        """Return one page of the matching events, and the number of all matching events.

        Args:
            dates: a tstzrange in PostgreSQL's notation.
            q: a part of the name; '' for all.
            available: True for only those on sale with an available ticket.
            sale_status: upcoming, open or closed; '' for all.
            page_size: the maximum number of events.
            skip: how many events to skip.
        """
        rows = await self._execute(
            self._list_events,
            {
                "dates": dates,
                "q": q,
                "available": available,
                "sale_status": sale_status,
                "page_size": page_size,
                "skip": skip,
            },
        )
        # Each row begins with the total. For an empty page there is one row without an event.
        return [Event(*row[1:]) for row in rows if row[1]], rows[0][0]

    async def create_event(
        self, name: str, date: datetime, total_tickets: int, terms: str
    ) -> Event | Refusal:
        """Create an event and return it.

        Args:
            name: the name.
            date: when it takes place.
            total_tickets: how many tickets it has.
            terms: the terms of its sale, as a JSON object with the names of the columns.
        """
        try:
            rows = await self._execute(
                self._create_event,
                {"name": name, "date": date, "total_tickets": total_tickets, "terms": terms},
                is_write=True,
            )
        except TimeoutError:
            return OUTCOME_UNKNOWN
        except NOT_CONNECTED:
            return BUSY
        except psycopg.OperationalError as error:
            if leaves_outcome_unknown(error):
                return OUTCOME_UNKNOWN
            raise
        outcome, bad_columns, *columns = rows[0]
        if outcome == "contradictory_terms":
            return contradictory_terms(bad_columns)
        return Event(*columns) if outcome == "granted" else EVENT_EXISTS

    async def find_tickets(
        self, ticket_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[TicketAllocation]:
        """Return the tickets that exist, in no particular order."""
        rows = await self._execute(self._find_tickets, {"ticket_ids": list(ticket_ids)}, seconds)
        return [TicketAllocation(*row) for row in rows]

    async def find_reservations(
        self, reservation_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[TicketAllocation]:
        """Return the tickets of reservations, by reservation and position."""
        parameters = {"reservation_ids": list(reservation_ids)}
        rows = await self._execute(self._find_reservations, parameters, seconds)
        return [TicketAllocation(*row) for row in rows]

    async def list_user_tickets(
        self, user_fingerprint: str, status: str, page_size: int, skip: int
    ) -> tuple[list[TicketAllocation], int]:
        """Return one page of a user's tickets, newest first, and the number of all of them.

        Args:
            user_fingerprint: the user.
            status: the status as in responses, where a hold whose time is up is expired, even if it
                is still stored as reserved; '' for all.
            page_size: the maximum number of tickets.
            skip: how many tickets to skip.
        """
        owner = {"user_fingerprint": user_fingerprint, "status": status}
        page = {"page_size": page_size, "skip": skip}
        rows = await self._execute(self._list_user_tickets, owner | page)
        return _read_tickets(rows), rows[0][0]

    async def list_event_tickets(
        self, event_id: Uuid, status: str, page_size: int, skip: int
    ) -> tuple[list[TicketAllocation], int]:
        """Return one page of an event's tickets, newest first, and the number of all of them."""
        event = {"event_id": event_id, "status": status}
        page = {"page_size": page_size, "skip": skip}
        rows = await self._execute(self._list_event_tickets, event | page)
        return _read_tickets(rows), rows[0][0]

    async def list_user_tickets_after(
        self, user_fingerprint: str, status: str, after: Uuid, page_size: int
    ) -> list[TicketAllocation] | None:
        """Return the tickets that follow ``after`` in a user's list.

        None if ``after`` is not a ticket of the user.
        """
        owner = {"user_fingerprint": user_fingerprint, "status": status}
        page = {"after": after, "page_size": page_size}
        rows = await self._execute(self._list_user_tickets_after, owner | page)
        return _read_tickets(rows) if rows else None

    async def list_event_tickets_after(
        self, event_id: Uuid, status: str, after: Uuid, page_size: int
    ) -> list[TicketAllocation] | None:
        """Return the tickets that follow ``after`` in an event's list.

        None if ``after`` is not a ticket of the event.
        """
        event = {"event_id": event_id, "status": status}
        page = {"after": after, "page_size": page_size}
        rows = await self._execute(self._list_event_tickets_after, event | page)
        return _read_tickets(rows) if rows else None

    async def list_ledger(self, event_id: Uuid, after: int, page_size: int) -> list[EventLedger]:
        """Return the rows of an event's ledger after a version, in order."""
        parameters = {"event_id": event_id, "after": after, "page_size": page_size}
        return [EventLedger(*row) for row in await self._execute(self._list_ledger, parameters)]

    async def find_ledger_at(self, event_id: Uuid, at: datetime) -> EventLedger | None:
        """Return the row of an event's ledger that was the last one at the given time.

        None if the ledger had no row yet.
        """
        rows = await self._execute(self._find_ledger_at, {"event_id": event_id, "at": at})
        return EventLedger(*rows[0]) if rows else None

    async def list_news(self, known: Mapping[Uuid, int]) -> list[tuple[Event, LastEvent]]:
        """Return the events that are newer than their known version, each with its last change."""
        parameters = {"event_ids": list(known), "versions": list(known.values())}
        rows = await self._execute(self._list_news, parameters)
        width = len(Event.__struct_fields__)
        return [(Event(*row[:width]), LastEvent(*row[width:])) for row in rows]

    async def check_events(self, event_ids: Sequence[Uuid], failed_only: bool) -> list[Check]:
        """Return the results of the audit's checks of events."""
        parameters = {"event_ids": list(event_ids), "failed_only": failed_only}
        return [Check(*row) for row in await self._execute(self._check_events, parameters)]

    async def find_unlocked_events(self, event_ids: Sequence[Uuid]) -> set[Uuid]:
        """Return the events that are not locked at the moment."""
        parameters = {"event_ids": list(event_ids)}
        rows = await self._execute(
            self._find_unlocked_events, parameters, limits.EVENT_LOOKUP_SECONDS
        )
        return {row[0] for row in rows}

    async def list_due_events(self, most: int) -> list[Uuid]:
        """Return up to ``most`` events with holds that are due to expire."""
        return [row[0] for row in await self._execute(self._list_due_events, {"most": most})]

    async def list_lines(self, most: int) -> tuple[int, list[Uuid]]:
        """Return how many tickets all waiting lists want, and events that may offer some.

        These are up to ``most`` events on sale, with a line and available tickets.
        """
        rows = await self._execute(self._list_lines, {"most": most})
        return rows[0][0], [event_id for _, event_id in rows if event_id]

    async def find_waiting_entries(
        self, entry_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[WaitingEntry]:
        """Return the entries of waiting lists that exist, in no particular order."""
        rows = await self._execute(
            self._find_waiting_entries, {"entry_ids": list(entry_ids)}, seconds
        )
        return [WaitingEntry(*row) for row in rows]

    async def list_waiting_entries(
        self, event_id: Uuid, state: str, after: Uuid | None, page_size: int
    ) -> list[WaitingEntry] | None:
        """Return entries of an event's waiting list, in the order of the line.

        None if ``after`` is not an entry of the event.

        Args:
            event_id: the event.
            state: the state by the clock; '' for all.
            after: the entry behind which the page begins; None for the first page.
            page_size: the maximum number of entries.
        """
        parameters = {"event_id": event_id, "state": state}
        page = {"after": after, "page_size": page_size}
        rows = await self._execute(self._list_waiting_entries, parameters | page)
        if not rows[0][0]:
            return None
        return [WaitingEntry(*row[1:]) for row in rows if row[1]]

    async def server_version(self) -> str:
        """Return the version of the server, such as ``18.4``."""
        rows = await self._execute(self._check_server, {}, limits.HEALTH_CHECK_SECONDS)
        return str(rows[0][1])

    async def list_applied_migrations(self) -> list[str]:
        """Return the names of the migrations that are applied."""
        rows = await self._execute(self._list_applied_migrations, {}, limits.HEALTH_CHECK_SECONDS)
        return [row[0] for row in rows]

    async def is_waiting_for_standby(self) -> bool:
        """Whether a commit of the service waits for a standby; False if the server is silent."""
        try:
            rows = await self._execute(self._count_waiting_commits, {}, limits.HEALTH_CHECK_SECONDS)
        except (psycopg.Error, *UNAVAILABLE):
            return False
        return bool(rows[0][0])

    async def _execute(
        self,
        statement: Statement,
        parameters: dict[str, Any],
        seconds: float = limits.READ_SECONDS,
        *,
        is_write: bool = False,
    ) -> list[Row]:
        """Run one statement and return its rows.

        Raises:
            NotReplicated: a write is committed, but not confirmed by the standby.
            TimeoutError: there was no response in time. The statement is not canceled: its own
                timeout ends it, and a server that does not respond would not respond to a cancel
                request, either. Its connection is closed after GIVE_UP_SECONDS (``Pool``).
        """
        run = self._run_in_transaction if is_write or self._behind_pooler else self._run
        query = asyncio.ensure_future(run(statement, parameters))
        done, _ = await asyncio.wait([query], timeout=seconds)
        if not done:
            query.add_done_callback(_ignore_error)
            raise TimeoutError
        return query.result()

    async def _run(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement.query, parameters)).fetchall()

    async def _run_in_transaction(
        self, statement: Statement, parameters: dict[str, Any]
    ) -> list[Row]:
        """Run a statement through the pipeline, in a transaction that sets its own timeouts.

        Queries behind a pooler need this because a pooler drops the connection's timeouts. Writes
        need it because only the pipeline notices that the standby did not confirm a commit.
        """
        async with self._pool.connection() as connection:
            _, rows = await self._pipeline.run(
                connection, [(self._limit_waits, _TIMEOUTS), (statement, parameters)]
            )
            return rows


def _read_tickets(rows: Sequence[Row]) -> list[TicketAllocation]:
    """Return the tickets of a page.

    The first column is the same in each row: the total, or ``after``. The others are a ticket. For
    an empty page there is one row without a ticket.
    """
    return [TicketAllocation(*row[1:]) for row in rows if row[1]]


def _ignore_error(query: asyncio.Future[list[Row]]) -> None:
    if not query.cancelled():
        query.exception()  # asyncio would log an exception that was never retrieved
