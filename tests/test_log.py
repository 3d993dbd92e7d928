"""The log: it tells what goes wrong, and never whose ticket it went wrong with."""

import logging
import uuid

from tests.harness import RUN_LOG, Client, Database, Starter, code

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


def test_a_fingerprint_in_the_log_would_be_found(client: Client) -> None:
    planted = f"planted-{uuid.uuid4()}"
    client.hold(client.create_event(), user=planted)
    assert planted not in RUN_LOG.shown()
    SERVICE.warning("DETAIL: Failing row contains (1, %s, reserved).", planted)
    assert planted in RUN_LOG.shown()
    RUN_LOG.fingerprints.remove(planted)


def test_no_fingerprint_is_in_the_log_of_this_whole_run() -> None:
    assert RUN_LOG.fingerprints
    assert RUN_LOG.told()
    assert RUN_LOG.shown() == set()
