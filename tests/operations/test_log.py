"""The log: it tells what goes wrong, and never whose ticket it went wrong with."""

import json
import logging
import uuid
from datetime import datetime

import pytest

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.run_log import RUN_LOG
from tests.support.services import Starter, serving
from tests.support.waiting import wait_until

SERVICE = logging.getLogger("service")


def test_what_goes_wrong_is_logged_without_whose_it_was(
    unbalanced_database: Database, start: Starter
) -> None:
    database, owner = unbalanced_database, f"owner-{uuid.uuid4()}"
    with start(database, sweeps=False).client() as client:
        event = client.create_event()
        tickets = client.hold(event, quantity=4, user=owner)
        # An error whose detail is the row that fails, the fingerprint in it.
        database.psql("alter table ticket_allocations add check (status <> 'purchased') not valid")
        assert code(client.pay(tickets[0], user=owner)) == (500, "INTERNAL_SERVER_ERROR")
        # One in a read.
        database.psql("alter table ticket_allocations rename column position to place")
        answer = client.user_tickets(user=owner)
        assert code(answer) == (500, "INTERNAL_SERVER_ERROR")
        assert "position" not in answer.text
        # And the end of a connection.
        database.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name = 'holdfast'"
        )
        client.user_tickets(user=owner)
    told = RUN_LOG.told()
    assert "23514" in told
    assert "42703" in told
    assert owner in RUN_LOG.fingerprints
    assert owner not in told


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_each_request_is_a_line(unbalanced_database: Database, log_format: str) -> None:
    database, name = unbalanced_database, f"name-{uuid.uuid4()}"
    with serving(database, log_format=log_format, log_level="info") as client:
        event = client.create_event(tickets=1)
        client.headers["X-Request-Id"] = name
        assert client.reserve(event).headers["X-Request-Id"] == name
        database.psql("alter table ticket_allocations rename column position to place")
        assert code(client.user_tickets(user="alice"))[0] == 500
        client.get("/some/where")
        wait_until(lambda: "none" in RUN_LOG.told().rpartition(name)[2])
    lines = [line for line in RUN_LOG.told().splitlines() if name in line]

    def of(word: str) -> str:
        (found,) = [line for line in lines if word in line]
        return found

    if log_format == "json":
        reserved = json.loads(of('"status":201'))
        assert reserved.pop("ms") > 0
        assert datetime.fromisoformat(reserved.pop("time"))
        route = {"method": "POST", "route": "/events/{id}/tickets", "id": event}
        assert reserved == {"level": "info", "request": name, "status": 201, **route}
        assert json.loads(of("42703"))["level"] == "error"
        assert json.loads(of("INTERNAL_SERVER_ERROR"))["route"] == "/tickets"
        assert json.loads(of('"status":404'))["route"] == "none"
    else:
        assert f" INFO {name}: POST /events/{{id}}/tickets {event} 201 " in of(" 201 ")
        assert f"(request {name})" in of("42703")
        assert " GET /tickets 500 INTERNAL_SERVER_ERROR " in of("INTERNAL_SERVER_ERROR")
        assert " other none 404 NOT_FOUND " in of(" 404 ")


@pytest.mark.parametrize("given", [None, "", "with blanks", "x" * 129, "café"])
def test_a_request_without_a_usable_id_is_given_one(client: Client, given: str | None) -> None:
    headers = {} if given is None else {b"X-Request-Id": given.encode()}
    ids = {client.get("/health/live", headers=headers).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3
    assert not ids & {given}


def test_a_fingerprint_in_the_log_would_be_found(client: Client) -> None:
    planted = f"planted-{uuid.uuid4()}"
    client.hold(client.create_event(), user=planted)
    assert planted not in RUN_LOG.shown()
    SERVICE.warning("DETAIL: Failing row contains (1, %s, reserved).", planted)
    assert planted in RUN_LOG.shown()
    RUN_LOG.fingerprints.remove(planted)
