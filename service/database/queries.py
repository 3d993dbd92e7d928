"""The queries: what is a single statement and moves no ticket."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import limits
from service.database.connections import NO_CONNECTION, has_broken
from service.database.pipeline import Pipeline
from service.database.statements import Statement, Statements
from service.refusals import BUSY, EVENT_EXISTS, OUTCOME_UNKNOWN, Refusal
from service.rows import Check, Event, EventLedger, LastEvent, TicketAllocation, Uuid

Row = tuple[Any, ...]

_SECONDS = f"{limits.STATEMENT_SECONDS} s"
_WAITS = {"lock_timeout": _SECONDS, "statement_timeout": _SECONDS}


class Queries:
    """Asks on connections of its own, so that reading never stands in the way of selling."""

    def __init__(
        self, pool: AsyncConnectionPool, statements: Statements, *, pooled: bool = False
    ) -> None:
        self._pool = pool
        self._pooled = pooled
        self._pipeline = Pipeline([], pooled=True)
        self._limit_waits = statements["limit_waits"]
        self._find_events = statements["find_events"]
        self._list_events = statements["list_events"]
        self._create_event = statements["create_event"]
        self._find_tickets = statements["find_tickets"]
        self._find_reservations = statements["find_reservations"]
        self._list_user_tickets = statements["list_user_tickets"]
        self._list_event_tickets = statements["list_event_tickets"]
        self._list_ledger = statements["list_ledger"]
        self._find_ledger_at = statements["find_ledger_at"]
        self._list_news = statements["list_news"]
        self._check_events = statements["check_events"]
        self._find_unlocked_events = statements["find_unlocked_events"]
        self._list_due_events = statements["list_due_events"]
        self._check_server = statements["check_server"]
        self._list_applied_migrations = statements["list_applied_migrations"]

    async def find_event(self, event_id: Uuid) -> Event | None:
        """Return an event, its lapsed holds counted as free; None if there is none."""
        events = await self.find_events([event_id])
        return events[0] if events else None

    async def find_events(
        self, event_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[Event]:
        """Return those of the events that exist, in no particular order."""
        rows = await self._ask(self._find_events, {"event_ids": list(event_ids)}, seconds)
        return [Event(*row) for row in rows]

    async def list_events(
        self, dates: str, q: str, available: bool, page_size: int, skip: int
    ) -> tuple[list[Event], int]:
        """Return one page of the events that match, and how many do in all.

        Args:
            dates: a tstzrange in PostgreSQL's notation.
            q: a part of the name; '' for all.
            available: whether only those with a ticket left.
            page_size: how many at the most.
            skip: how many to pass over.
        """
        rows = await self._ask(
            self._list_events,
            {"dates": dates, "q": q, "available": available, "page_size": page_size, "skip": skip},
        )
        return [Event(*row[1:]) for row in rows if row[1]], rows[0][0]

    async def create_event(self, name: str, date: datetime, total_tickets: int) -> Event | Refusal:
        """Make an event and return it."""
        try:
            rows = await self._ask(
                self._create_event,
                {"name": name, "date": date, "total_tickets": total_tickets},
                changes=True,
            )
        except TimeoutError:
            return OUTCOME_UNKNOWN
        except NO_CONNECTION:
            return BUSY
        except psycopg.OperationalError as error:
            if has_broken(error):
                return OUTCOME_UNKNOWN
            raise
        return Event(*rows[0]) if rows else EVENT_EXISTS

    async def find_tickets(
        self, ticket_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[TicketAllocation]:
        """Return those of the tickets that exist, in no particular order."""
        rows = await self._ask(self._find_tickets, {"ticket_ids": list(ticket_ids)}, seconds)
        return [TicketAllocation(*row) for row in rows]

    async def find_reservations(
        self, reservation_ids: Sequence[Uuid], seconds: float = limits.READ_SECONDS
    ) -> list[TicketAllocation]:
        """Return the tickets of reservations, by reservation and position."""
        asked = {"reservation_ids": list(reservation_ids)}
        rows = await self._ask(self._find_reservations, asked, seconds)
        return [TicketAllocation(*row) for row in rows]

    async def list_user_tickets(
        self, user_fingerprint: str, status: str, page_size: int, skip: int
    ) -> tuple[list[TicketAllocation], int]:
        """Return one page of somebody's tickets, newest first, and how many there are in all.

        Args:
            user_fingerprint: whose.
            status: as shown; '' for all.
            page_size: how many at the most.
            skip: how many to pass over.
        """
        asked = {"user_fingerprint": user_fingerprint, "status": status}
        page = {"page_size": page_size, "skip": skip}
        return _read_page(await self._ask(self._list_user_tickets, asked | page))

    async def list_event_tickets(
        self, event_id: Uuid, status: str, page_size: int, skip: int
    ) -> tuple[list[TicketAllocation], int]:
        """Return one page of an event's tickets, newest first, and how many there are in all."""
        asked = {"event_id": event_id, "status": status}
        page = {"page_size": page_size, "skip": skip}
        return _read_page(await self._ask(self._list_event_tickets, asked | page))

    async def list_ledger(self, event_id: Uuid, after: int, page_size: int) -> list[EventLedger]:
        """Return an event's ledger behind a version, in order."""
        asked = {"event_id": event_id, "after": after, "page_size": page_size}
        return [EventLedger(*row) for row in await self._ask(self._list_ledger, asked)]

    async def find_ledger_at(self, event_id: Uuid, at: datetime) -> EventLedger | None:
        """Return the last row of an event's ledger at a moment; None before there was any."""
        rows = await self._ask(self._find_ledger_at, {"event_id": event_id, "at": at})
        return EventLedger(*rows[0]) if rows else None

    async def list_news(self, known: Mapping[Uuid, int]) -> list[tuple[Event, LastEvent]]:
        """Return those events that have another version than is known, and what happened."""
        asked = {"event_ids": list(known), "versions": list(known.values())}
        rows = await self._ask(self._list_news, asked)
        width = len(Event.__struct_fields__)
        return [(Event(*row[:width]), LastEvent(*row[width:])) for row in rows]

    async def check_events(self, event_ids: Sequence[Uuid], failed_only: bool) -> list[Check]:
        """Return what the rules say of the books of events."""
        asked = {"event_ids": list(event_ids), "failed_only": failed_only}
        return [Check(*row) for row in await self._ask(self._check_events, asked)]

    async def find_unlocked_events(self, event_ids: Sequence[Uuid]) -> set[Uuid]:
        """Return those of the events that nobody has locked just now."""
        asked = {"event_ids": list(event_ids)}
        rows = await self._ask(self._find_unlocked_events, asked, limits.LOOK_UP_SECONDS)
        return {row[0] for row in rows}

    async def list_due_events(self, most: int) -> list[Uuid]:
        """Return events that have a hold whose time is up."""
        return [row[0] for row in await self._ask(self._list_due_events, {"most": most})]

    async def server_version(self) -> str:
        """Return the version of the server, such as ``18.4``."""
        return str((await self._ask(self._check_server, {}, limits.HEALTH_SECONDS))[0][1])

    async def list_applied_migrations(self) -> list[str]:
        """Return the names of the migrations that the database has."""
        rows = await self._ask(self._list_applied_migrations, {}, limits.HEALTH_SECONDS)
        return [row[0] for row in rows]

    async def _ask(
        self,
        statement: Statement,
        parameters: dict[str, Any],
        seconds: float = limits.READ_SECONDS,
        *,
        changes: bool = False,
    ) -> list[Row]:
        """Run one statement, which changes something or does not, and return its rows.

        Raises:
            NotReplicated: it has changed something, and nobody knows whether for good.
            TimeoutError: when there is no answer in time. The statement is left to its own
                timeout: a server that does not answer does not answer a cancel, either.
        """
        whole = changes or self._pooled
        asking = asyncio.ensure_future(
            (self._run_whole if whole else self._run)(statement, parameters)
        )
        done, _ = await asyncio.wait([asking], timeout=seconds)
        if not done:
            asking.add_done_callback(_forget)
            raise TimeoutError
        return asking.result()

    async def _run(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement.query, parameters)).fetchall()

    async def _run_whole(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        """Run it in a transaction that bounds itself: a pooler does not pass on a connection's."""
        bounded = [(self._limit_waits, _WAITS), (statement, parameters)]
        async with self._pool.connection() as connection:
            _, rows = await self._pipeline.run(connection, bounded)
            return rows


def _read_page(rows: Sequence[Row]) -> tuple[list[TicketAllocation], int]:
    """Read a page: the total stands first in each row, alone in one row where there is none."""
    return [TicketAllocation(*row[1:]) for row in rows if row[1]], rows[0][0]


def _forget(asked: asyncio.Future[list[Row]]) -> None:
    if not asked.cancelled():
        asked.exception()  # looked at, so that nobody is told that it was not
