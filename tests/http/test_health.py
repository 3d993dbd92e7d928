"""Health: what the one who runs the service is told."""

from psycopg.conninfo import make_conninfo

from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.waiting import wait_until


def test_a_healthy_service_says_what_it_runs_on(client: Client) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["database"]["version"].split(".")[0].isdigit()
    assert answer.json()["migrations"] == {"status": "ok", "pending": []}
    assert client.get("/health/live").json() == {"status": "ok"}


def test_a_missing_migration_is_named(unbalanced_database: Database, start: Starter) -> None:
    service = start(unbalanced_database)
    unbalanced_database.psql("delete from _yoyo_migration where migration_id = '0010_index_holds'")
    with service.client() as client:
        answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["migrations"]["pending"] == ["0010_index_holds"]


def test_a_service_without_its_database_is_live_but_not_healthy(
    database: Database, service: RunningService, client: Client
) -> None:
    name = database.psql("select current_database()")[0]
    elsewhere = Database(make_conninfo(database.dsn, dbname="postgres"))
    elsewhere.psql(f"alter database {name} allow_connections false")
    elsewhere.psql(
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    )
    try:
        assert client.get("/health/live").status_code == 200
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        busy = client.get("/events")
        assert (busy.status_code, busy.json()["code"]) == (503, "BUSY")
        assert busy.headers["Retry-After"] == "1"
    finally:
        elsewhere.psql(f"alter database {name} allow_connections true")
    # And it heals by itself.
    wait_until(lambda: client.get("/health").status_code == 200)
    gig = {"name": "Gig", "date": "2030-01-01T20:00:00Z", "totalTickets": 1}
    wait_until(lambda: client.post("/events", json=gig).status_code == 201)
    (event,) = database.psql("select id from events")
    wait_until(lambda: client.reserve(event).status_code == 201)
