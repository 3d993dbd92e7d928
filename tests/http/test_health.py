"""Health checks: the database, its version and the migrations."""

from psycopg.conninfo import make_conninfo

from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService, Starter
from tests.support.waiting import wait_until


def test_a_healthy_service_names_its_database_and_migrations(client: Client) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["database"]["version"].split(".")[0].isdigit()
    assert response.json()["migrations"] == {"status": "ok", "pending": [], "ahead": []}
    assert client.get("/health/live").json() == {"status": "ok"}


def test_a_missing_migration_is_named(unbalanced_database: Database, start: Starter) -> None:
    service = start(unbalanced_database)
    unbalanced_database.psql("delete from _yoyo_migration where migration_id = '0010_index_holds'")
    with service.client() as client:
        response = client.get("/health")
    assert response.status_code == 503
    assert response.json()["migrations"]["pending"] == ["0010_index_holds"]


def test_a_service_goes_on_when_the_database_has_newer_migrations(
    database: Database, start: Starter
) -> None:
    service = start(database)
    database.psql(
        "insert into _yoyo_migration values ('hash', '9999_from_the_future', current_timestamp)"
    )
    with service.client() as client:
        response = client.get("/health")
        assert response.status_code == 200
        assert response.json()["status"] == "ok"
        assert response.json()["migrations"] == {
            "status": "ahead",
            "pending": [],
            "ahead": ["9999_from_the_future"],
        }
        client.hold(client.create_event())
        # What is missing counts more than what is too much.
        database.psql("delete from _yoyo_migration where migration_id = '0010_index_holds'")
        response = client.get("/health")
        assert (response.status_code, response.json()["migrations"]["status"]) == (503, "pending")


def test_a_service_without_its_database_is_live_but_not_healthy(
    database: Database, service: RunningService, client: Client
) -> None:
    name = database.psql("select current_database()")[0]
    maintenance = Database(make_conninfo(database.dsn, dbname="postgres"))
    maintenance.psql(f"alter database {name} allow_connections false")
    maintenance.psql(
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    )
    try:
        assert client.get("/health/live").status_code == 200
        response = client.get("/health")
        assert (response.status_code, response.json()["status"]) == (503, "unavailable")
        busy = client.get("/events")
        assert (busy.status_code, busy.json()["code"]) == (503, "BUSY")
        assert busy.headers["Retry-After"] == "1"
    finally:
        maintenance.psql(f"alter database {name} allow_connections true")
    # It recovers without a restart.
    wait_until(lambda: client.get("/health").status_code == 200)
    gig = {"name": "Gig", "date": "2030-01-01T20:00:00Z", "totalTickets": 1}
    wait_until(lambda: client.post("/events", json=gig).status_code == 201)
    (event,) = database.psql("select id from events")
    wait_until(lambda: client.reserve(event).status_code == 201)
