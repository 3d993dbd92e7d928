"""Forgetting: a fingerprint is gone from the database, and nothing else has changed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client
from tests.support.commands import holdfast, refused
from tests.support.database import Database

BUT_WHOSE = """
select events.*, tickets.id, tickets.status, tickets.expires_at, tickets.reservation_id
from events inner join ticket_allocations as tickets on events.id = tickets.event_id
order by tickets.id
"""


def everywhere(database: Database, text: str) -> list[str]:
    """Return every table that has a row with a text in it."""
    tables = database.psql(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    return [
        table
        for table in tables
        if database.psql(f"select 1 from {table} as t where t::text like '%{text}%' limit 1")
    ]


def test_a_person_is_forgotten_everywhere(client: Client, database: Database) -> None:
    one, other = client.create_event(name="one"), client.create_event(name="other")
    (kept,) = client.hold(one, user="bob-s-own")
    paid, _ = client.hold(one, quantity=2, user="alice-s-own")
    client.pay(paid, user="alice-s-own")
    client.hold(other, user="alice-s-own")
    before = database.psql(BUT_WHOSE)
    assert everywhere(database, "alice-s-own") == ["ticket_allocations"]

    done = holdfast("forget", "alice-s-own", DATABASE_URL=database.dsn)
    assert done.stdout == "3 ticket(s) of 2 event(s) no longer tell whose they are\n"
    assert done.returncode == 0

    assert everywhere(database, "alice-s-own") == []
    assert database.psql(BUT_WHOSE) == before
    assert client.ticket(kept, user="bob-s-own").json()["userFingerprint"] == "bob-s-own"
    # One and the same stands there now, and nobody can guess it.
    (nobody,) = database.psql(
        "select distinct user_fingerprint from ticket_allocations "
        "where user_fingerprint <> 'bob-s-own'"
    )
    assert len(nobody) == 43
    assert client.pay(paid, user="alice-s-own").status_code == 403
    assert client.user_tickets(user="alice-s-own").json()["data"] == []


def test_a_repeat_of_an_old_key_finds_its_tickets_and_no_fingerprint(
    client: Client, database: Database
) -> None:
    event = client.create_event()
    first = client.reserve(event, quantity=2, key="order-1")
    holdfast("forget", "alice", DATABASE_URL=database.dsn)
    again = client.reserve(event, quantity=2, key="order-1")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert [ticket["id"] for ticket in again.json()] == [ticket["id"] for ticket in first.json()]
    assert "userFingerprint" not in again.text
    assert client.event(event)["allocatedTickets"] == 2


@pytest.mark.parametrize("fingerprint", ["-dash", "-h", "--version", "o'brien", 'a"b\\c,{}'])
def test_any_fingerprint_can_be_forgotten(
    client: Client, database: Database, fingerprint: str
) -> None:
    client.hold(client.create_event(), user=fingerprint)
    done = holdfast("forget", fingerprint, DATABASE_URL=database.dsn)
    assert done.stdout == "1 ticket(s) of 1 event(s) no longer tell whose they are\n"
    assert client.user_tickets(user=fingerprint).json()["data"] == []


def test_each_event_is_a_transaction_of_its_own(client: Client, database: Database) -> None:
    for name in ("one", "other", "third"):
        client.hold(client.create_event(name=name))
    holdfast("forget", "alice", DATABASE_URL=database.dsn)
    assert database.psql("select count(distinct xmin::text) from ticket_allocations") == ["3"]


def test_nobody_guesses_what_stands_there_then(client: Client, database: Database) -> None:
    event = client.create_event()
    for user in ("alice", "bobby"):
        client.hold(event, user=user)
        holdfast("forget", user, DATABASE_URL=database.dsn)
    assert len(set(database.psql("select user_fingerprint from ticket_allocations"))) == 2


def test_who_is_not_known_is_forgotten_already(database: Database) -> None:
    done = holdfast("forget", "nobody", DATABASE_URL=database.dsn)
    assert done.stdout == "0 ticket(s) of 0 event(s) no longer tell whose they are\n"


def test_it_waits_for_the_events_lock(client: Client, database: Database) -> None:
    event = client.create_event()
    client.hold(event)
    with ThreadPoolExecutor(1) as pool:
        with database.holding(event):
            forgetting = pool.submit(holdfast, "forget", "alice", DATABASE_URL=database.dsn)
            database.wait_until_blocked()
            assert database.psql("select user_fingerprint from ticket_allocations") == ["alice"]
        assert forgetting.result().returncode == 0
    assert database.psql("select user_fingerprint from ticket_allocations") != ["alice"]


def test_the_services_role_may_not_do_it(client: Client, database: Database) -> None:
    client.hold(client.create_event())
    said = refused(holdfast("forget", "alice", DATABASE_URL=database.service_dsn))
    assert "permission denied" in said
