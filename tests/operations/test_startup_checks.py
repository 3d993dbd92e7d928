"""The checks at the start, one by one, on what a server says of itself."""

import logging
from typing import Any, cast

import psycopg
import pytest

from service.database.startup_checks import DatabaseUnfit, Server, check_database, check_server
from tests.support.batches import STATEMENTS

FIT = Server(
    version_number=150_000,
    version="15.0",
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    is_standby=False,
    encoding="UTF8",
    has_standbys=False,
    connections=100,
    clock=0.0,
    date_style="ISO, MDY",
    is_citus=False,
    knows_all_letters=True,
    lost_client_seconds=9,
)


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"version_number": 149_999, "version": "14.20"}, "PostgreSQL 14.20 is too old"),
        ({"is_standby": True}, "a read-only standby"),
        ({"encoding": "LATIN1"}, "encoding is LATIN1"),
        ({"date_style": "SQL, DMY"}, "DateStyle is SQL, DMY"),
        ({"fsync": False}, "fsync is off"),
        ({"full_page_writes": False}, "full_page_writes is off"),
        ({"synchronous_commit": "off"}, "synchronous_commit is off"),
        ({"synchronous_commit": "local", "has_standbys": True}, "synchronous_commit is local"),
    ],
)
def test_an_unfit_server_is_refused(difference: dict[str, Any], reason: str) -> None:
    with pytest.raises(DatabaseUnfit, match=reason):
        check_server(FIT._replace(**difference))


@pytest.mark.parametrize(
    "difference",
    [
        {},
        {"version_number": 180_004},
        {"synchronous_commit": "local"},
        {"synchronous_commit": "remote_apply", "has_standbys": True},
    ],
)
def test_a_fit_server_is_accepted(difference: dict[str, Any]) -> None:
    check_server(FIT._replace(**difference))


class FakeConnection:
    """A connection whose server says what the test wants."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def execute(self, _: bytes) -> "FakeConnection":
        """Run no statement."""
        return self

    def fetchone(self) -> Server:
        """Return the server's row."""
        return self._server


@pytest.mark.parametrize(
    ("difference", "warning"),
    [
        ({}, ""),
        ({"connections": 11}, "max_connections allows 11 connections"),
        ({"clock": 10.0}, "clock differs from this machine's by +10 s"),
        ({"knows_all_letters": False}, "built without ICU"),
        ({"lost_client_seconds": 7875}, "detects a lost client only after 7875 s"),
    ],
)
def test_a_doubtful_server_is_reported(
    difference: dict[str, Any],
    warning: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.database.startup_checks.time.time", lambda: 0.0)
    connection = FakeConnection(FIT._replace(**difference))
    with caplog.at_level(logging.WARNING):
        check_database(cast(psycopg.Connection, connection), STATEMENTS)
    messages = [record.getMessage() for record in caplog.records]
    assert [warning in message for message in messages] == [True] * bool(warning)
