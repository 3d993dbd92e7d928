"""Forgetting removes a fingerprint from the database and changes nothing else."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client
from tests.support.commands import error_line, holdfast
from tests.support.database import Database

ALL_BUT_FINGERPRINTS = """
select events.*, tickets.id, tickets.status, tickets.expires_at, tickets.reservation_id
from events inner join ticket_allocations as tickets on events.id = tickets.event_id
order by tickets.id
"""


def tables_containing(database: Database, text: str) -> list[str]:
    """Return the tables that have a row containing a text."""
    tables = database.psql(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    return [
        table
        for table in tables
        if database.psql(f"select 1 from {table} as t where t::text like '%{text}%' limit 1")
    ]


def test_a_person_is_forgotten_everywhere(client: Client, database: Database) -> None:
    first_event, second_event = client.create_event(name="one"), client.create_event(name="other")
    (bobs_ticket,) = client.hold(first_event, user="bob-s-own")
    paid, _ = client.hold(first_event, quantity=2, user="alice-s-own")
    client.pay(paid, user="alice-s-own")
    client.hold(second_event, user="alice-s-own")
    before = database.psql(ALL_BUT_FINGERPRINTS)
    assert tables_containing(database, "alice-s-own") == ["ticket_allocations"]

    process = holdfast("forget", "alice-s-own", DATABASE_URL=database.dsn)
    assert process.stdout == "replaced the fingerprint of 3 ticket(s) of 2 event(s)\n"
    assert process.returncode == 0

    assert tables_containing(database, "alice-s-own") == []
    assert database.psql(ALL_BUT_FINGERPRINTS) == before
    assert (
        client.find_ticket(bobs_ticket, user="bob-s-own").json()["userFingerprint"] == "bob-s-own"
    )
    # All its tickets have the same random replacement.
    (replacement,) = database.psql(
        "select distinct user_fingerprint from ticket_allocations "
        "where user_fingerprint <> 'bob-s-own'"
    )
    assert len(replacement) == 43
    assert client.pay(paid, user="alice-s-own").status_code == 403
    assert client.list_user_tickets(user="alice-s-own").json()["data"] == []


def test_a_replay_returns_the_tickets_without_the_fingerprint(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    first = client.reserve(event, quantity=2, key="order-1")
    holdfast("forget", "alice", DATABASE_URL=database.dsn)
    replay = client.reserve(event, quantity=2, key="order-1")
    assert (replay.status_code, replay.headers["Idempotency-Replayed"]) == (201, "true")
    assert [ticket["id"] for ticket in replay.json()] == [ticket["id"] for ticket in first.json()]
    assert "userFingerprint" not in replay.text
    assert client.find_event(event)["allocatedTickets"] == 2


def test_a_person_who_waits_in_line_is_forgotten(client: Client, database: Database) -> None:
    event = client.create_event(tickets=1)
    client.hold(event, user="bob-s-own")
    entry = client.join_line(event, user="alice-s-own").json()
    assert tables_containing(database, "alice-s-own") == ["waiting_entries"]
    process = holdfast("forget", "alice-s-own", DATABASE_URL=database.dsn)
    assert process.stdout == "replaced the fingerprint of 0 ticket(s) of 1 event(s)\n"
    assert tables_containing(database, "alice-s-own") == []
    assert client.find_entry(entry["id"], "alice-s-own").status_code == 403
    assert client.find_event(event)["waitingTickets"] == 1
    # She may join again, as somebody else.
    assert client.join_line(event, user="alice-s-own").status_code == 201


@pytest.mark.parametrize("fingerprint", ["-dash", "-h", "--version", "o'brien", 'a"b\\c,{}'])
def test_any_fingerprint_can_be_forgotten(
    client: Client, database: Database, fingerprint: str
) -> None:
    client.hold(client.create_event(), user=fingerprint)
    process = holdfast("forget", fingerprint, DATABASE_URL=database.dsn)
    assert process.stdout == "replaced the fingerprint of 1 ticket(s) of 1 event(s)\n"
    assert client.list_user_tickets(user=fingerprint).json()["data"] == []


def test_each_event_is_changed_in_its_own_transaction(client: Client, database: Database) -> None:
    for name in ("one", "other", "third"):
        client.hold(client.create_event(name=name))
    holdfast("forget", "alice", DATABASE_URL=database.dsn)
    assert database.psql("select count(distinct xmin::text) from ticket_allocations") == ["3"]


def test_two_forgotten_persons_get_different_replacements(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    for user in ("alice", "bobby"):
        client.hold(event, user=user)
        holdfast("forget", user, DATABASE_URL=database.dsn)
    assert len(set(database.psql("select user_fingerprint from ticket_allocations"))) == 2


def test_an_unknown_fingerprint_is_no_error(database: Database) -> None:
    process = holdfast("forget", "nobody", DATABASE_URL=database.dsn)
    assert process.stdout == "replaced the fingerprint of 0 ticket(s) of 0 event(s)\n"


def test_the_command_waits_for_the_lock_of_the_event(client: Client, database: Database) -> None:
    event = client.create_event()
    client.hold(event)
    with ThreadPoolExecutor(1) as pool:
        with database.lock_event(event):
            forgetting = pool.submit(holdfast, "forget", "alice", DATABASE_URL=database.dsn)
            database.wait_until_blocked()
            assert database.psql("select user_fingerprint from ticket_allocations") == ["alice"]
        assert forgetting.result().returncode == 0
    assert database.psql("select user_fingerprint from ticket_allocations") != ["alice"]


def test_the_role_of_the_service_may_not_forget(client: Client, database: Database) -> None:
    client.hold(client.create_event())
    error = error_line(holdfast("forget", "alice", DATABASE_URL=database.service_dsn))
    assert "permission denied" in error
