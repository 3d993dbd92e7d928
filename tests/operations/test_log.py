"""The log has every error and every request, and never a fingerprint."""

import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.run_log import RUN_LOG
from tests.support.services import Starter, run_service
from tests.support.waiting import wait_until

SERVICE = logging.getLogger("service")


def test_errors_are_logged_without_the_fingerprint(
    unbalanced_database: Database, start: Starter
) -> None:
    database, owner = unbalanced_database, f"owner-{uuid.uuid4()}"
    with start(database, sweeps=False).client() as client:
        event = client.create_event()
        tickets = client.hold(event, quantity=4, user=owner)
        # An error whose detail contains the row with the fingerprint.
        database.psql("alter table ticket_allocations add check (status <> 'purchased') not valid")
        assert code(client.pay(tickets[0], user=owner)) == (500, "INTERNAL_SERVER_ERROR")
        # An error in a read.
        database.psql("alter table ticket_allocations rename column position to place")
        response = client.list_user_tickets(user=owner)
        assert code(response) == (500, "INTERNAL_SERVER_ERROR")
        assert "position" not in response.text
        # A terminated connection.
        database.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name = 'holdfast'"
        )
        client.list_user_tickets(user=owner)
    log = RUN_LOG.read()
    assert "23514" in log
    assert "42703" in log
    assert owner in RUN_LOG.fingerprints
    assert owner not in log


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_each_request_is_logged_in_one_line(unbalanced_database: Database, log_format: str) -> None:
    database, request_id = unbalanced_database, f"request-{uuid.uuid4()}"
    with run_service(database, log_format=log_format, log_level="info") as client:
        event = client.create_event(tickets=1)
        client.headers["X-Request-Id"] = request_id
        assert client.reserve(event).headers["X-Request-Id"] == request_id
        database.psql("alter table ticket_allocations rename column position to place")
        assert code(client.list_user_tickets(user="alice"))[0] == 500
        client.get("/some/where")
        wait_until(lambda: "none" in RUN_LOG.read().rpartition(request_id)[2])
    lines = [line for line in RUN_LOG.read().splitlines() if request_id in line]

    def line_with(word: str) -> str:
        (line,) = [line for line in lines if word in line]
        return line

    if log_format == "json":
        reserved = json.loads(line_with('"status":201'))
        assert reserved.pop("ms") > 0
        assert datetime.fromisoformat(reserved.pop("time"))
        route = {"method": "POST", "route": "/events/{eventId}/tickets", "id": event}
        assert reserved == {"level": "info", "request": request_id, "status": 201, **route}
        assert json.loads(line_with("42703"))["level"] == "error"
        assert json.loads(line_with("INTERNAL_SERVER_ERROR"))["route"] == "/tickets"
        assert json.loads(line_with('"status":404'))["route"] == "none"
    else:
        request = f"POST /events/{{eventId}}/tickets {event}"
        assert f" INFO {request_id}: {request} 201 " in line_with(" 201 ")
        assert f"(request {request_id})" in line_with("42703")
        assert " GET /tickets 500 INTERNAL_SERVER_ERROR " in line_with("INTERNAL_SERVER_ERROR")
        assert " other none 404 NOT_FOUND " in line_with(" 404 ")


@pytest.mark.parametrize("given", [None, "", "with blanks", "x" * 129, "café"])
def test_a_request_without_a_valid_id_gets_one(client: Client, given: str | None) -> None:
    headers = {} if given is None else {b"X-Request-Id": given.encode()}
    ids = {client.get("/health/live", headers=headers).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3
    assert not ids & {given}


def test_the_check_finds_a_fingerprint_in_the_log(client: Client) -> None:
    fingerprint = f"fingerprint-{uuid.uuid4()}"
    client.hold(client.create_event(), user=fingerprint)
    assert fingerprint not in RUN_LOG.leaked_fingerprints()
    SERVICE.warning("DETAIL: Failing row contains (1, %s, reserved).", fingerprint)
    assert fingerprint in RUN_LOG.leaked_fingerprints()
    RUN_LOG.fingerprints.remove(fingerprint)


@contextmanager
def open_log(kind: str) -> Iterator[tuple[int, int]]:
    """Yield both ends of a pipe or of a socket, as a container or systemd reads a log."""
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_that_nobody_reads_does_not_stop_the_service(
    database: Database, monkeypatch: pytest.MonkeyPatch, kind: str, workers: int
) -> None:
    with open_log(kind) as (_, writer):
        monkeypatch.setattr(RUN_LOG, "file", writer)
        with run_service(database, workers=workers, log_level="info") as client:
            for _ in range(4000):
                assert client.get("/health/live").status_code == 200

            def count_dropped() -> float:
                text = client.get("/metrics").text
                (count,) = re.findall(r"^holdfast_log_lines_dropped_total (.*)$", text, re.M)
                return float(count)

            wait_until(lambda: count_dropped() > 0)
            assert client.hold(client.create_event())
