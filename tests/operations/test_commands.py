"""The commands: what they do and print, and their errors."""

import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from service.database.migrations import migration_names
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.serving import CannotServe, bind
from service.settings import read_settings, resource
from tests.support.commands import error_line, holdfast
from tests.support.database import SERVICE_ROLE, Database
from tests.support.run_log import RUN_LOG
from tests.support.services import run_service

STATEMENTS = load_statements(resource("sql"))


def test_migrate_applies_the_pending_migrations(empty_database: Database) -> None:
    done = holdfast("migrate", database_url=empty_database.dsn)
    assert done.stdout.splitlines() == [f"applied {name}" for name in migration_names()]
    done = holdfast("migrate", database_url=empty_database.dsn)
    assert (done.returncode, done.stdout) == (0, "nothing to apply\n")


def test_migrate_accepts_a_user_without_a_name(empty_database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "migrate"],
        env={"DATABASE_URL": empty_database.dsn, "USER": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_serve_refuses_a_database_that_lacks_migrations(empty_database: Database) -> None:
    error = error_line(holdfast("serve", database_url=empty_database.dsn))
    names = migration_names()
    assert f"the database lacks {len(names)} migrations, the first is {names[0]}: run" in error
    assert "holdfast migrate" in error


def test_serve_fails_when_the_database_is_not_reachable() -> None:
    error = error_line(holdfast(database_url="postgresql://me:s3cret@127.0.0.1:1/tickets"))
    assert error == (
        "holdfast: the database cannot be reached: 127.0.0.1:1, database tickets: "
        "Connection refused; start it, or correct DATABASE_URL\n"
    )


def test_serve_fails_when_the_server_refuses_the_connection(database: Database) -> None:
    dsn = re.sub(r"@/\w+", ":s3cret@/no-such", database.dsn)
    error = error_line(holdfast("serve", database_url=dsn))
    assert ': database "no-such" does not exist; start it, or correct DATABASE_URL' in error
    assert "s3cret" not in error


@pytest.mark.parametrize("command", ["serve", "migrate", "dsn"])
def test_the_error_for_an_invalid_url_does_not_repeat_it(command: str) -> None:
    error = error_line(holdfast(command, database_url="postgresql://me:s3cret%zz@db/tickets"))
    assert "DATABASE_URL" in error
    assert "s3cret" not in error


def test_serve_says_what_to_do_when_its_port_is_in_use(database: Database) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = holdfast("serve", "--port", str(port), database_url=database.dsn)
    assert done.returncode == 1
    error = f"holdfast: port {port} is in use: stop what uses it, or set PORT"
    assert done.stderr.splitlines()[-1] == error


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "2001:db8::1"])
def test_serve_refuses_an_address_of_another_machine(host: str) -> None:
    settings = read_settings({"HOST": host, "PORT": "0"})
    message = f"^HOST={host} is invalid: expected an address of this machine: "
    with pytest.raises(CannotServe, match=message):
        bind(settings)


def test_serve_fails_when_a_setting_is_invalid() -> None:
    error = "WORKERS=many is invalid: expected a whole number from 1 to 64\n"
    assert error_line(holdfast(workers="many")) == f"holdfast: {error}"


def test_serve_fails_when_a_statement_breaks_a_rule(database: Database, tmp_path: Path) -> None:
    (tmp_path / "lock_events.sql").write_text("-- lock_events\n\nselect 1")
    error = error_line(holdfast(database_url=database.dsn, sql_dir=tmp_path))
    assert "lock_events" in error


def test_serve_fails_when_postgresql_rejects_a_statement(
    database: Database, tmp_path: Path
) -> None:
    shutil.copytree(resource("sql"), tmp_path, dirs_exist_ok=True)
    broken = tmp_path / "find_events.sql"
    broken.write_text(broken.read_text().replace("events.version", "events.no_such"))
    error = error_line(holdfast(database_url=database.dsn, sql_dir=tmp_path))
    assert "find_events.sql" in error
    assert "no_such" in error


def test_dsn_prints_a_url_for_psql_or_for_yoyo(database: Database) -> None:
    assert holdfast("dsn", database_url=database.dsn).stdout == f"{database.dsn}\n"
    done = holdfast("dsn", "--yoyo", database_url=database.dsn)
    assert done.stdout.startswith("postgresql+psycopg:///?")


def test_dsn_fails_when_the_embedded_postgresql_does_not_run(tmp_path: Path) -> None:
    error = error_line(holdfast("dsn", data_dir=tmp_path))
    assert f"no embedded PostgreSQL runs in {tmp_path}: start it with holdfast serve" in error


def test_psql_passes_its_arguments_to_psql(database: Database) -> None:
    done = holdfast(
        *("psql", "-At", "-v", "event_ids={}", "-v", "ticket_ids={}"),
        *("-c", "select 1 + 1", "-f", "sql/lock_events.sql"),
        database_url=database.dsn,
    )
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert holdfast("psql", "-c", "select", "-X", database_url=database.dsn).returncode == 0


def test_sql_lists_every_statement() -> None:
    lines = holdfast("sql").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(STATEMENTS)
    assert max(len(line) for line in lines) <= 100


def test_sql_prints_a_psql_line_that_runs(database: Database) -> None:
    line = holdfast("sql", "create_event", "name=It's on", "total_tickets=7").stdout
    assert line.startswith("holdfast psql -v ")
    done = holdfast(*shlex.split(line)[1:], database_url=database.dsn)
    assert done.returncode == 0, done.stderr
    assert database.psql("select name, total_tickets from events") == ["It's on|7"]


def test_sql_explains_a_statement_and_rolls_it_back(database: Database) -> None:
    done = holdfast("sql", "create_event", "--explain", database_url=database.dsn)
    assert "Insert on events" in done.stdout
    assert "Buffers:" in done.stdout
    assert database.psql("select count(*) from events") == ["0"]


@pytest.mark.parametrize(
    ("host", "token", "warns"),
    [("127.0.0.1", "", False), ("0.0.0.0", "", True), ("0.0.0.0", "secret", False)],  # noqa: S104
)
def test_serve_warns_when_anyone_can_act_as_an_organizer(
    database: Database, host: str, token: str, warns: bool
) -> None:
    before = len(RUN_LOG.read())
    with run_service(database, host=host, organizer_token=token):
        output = RUN_LOG.read()[before:]
    assert ("anyone who can reach the service can act as an organizer" in output) == warns


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_serve_refuses_a_database_that_is_not_durable(
    data_dir: Path, setting: str, database: Database
) -> None:
    # Its own server: the other tests need a durable one.
    folder = data_dir / "not-durable"
    with EmbeddedPostgres(folder) as postgres:
        dsn = str(postgres.dsn)
        assert holdfast("migrate", database_url=dsn).returncode == 0
        not_durable = Database(make_conninfo(dsn))
        not_durable.psql(f"alter system set {setting} = off")
        not_durable.psql("select pg_reload_conf()")
        error = error_line(holdfast(database_url=dsn))
        assert f"{setting} is off" in error
        not_durable.psql(f"alter system reset {setting}")


def test_serve_refuses_unsafe_replication_and_warns_of_few_connections(data_dir: Path) -> None:
    folder = data_dir / "replicated"
    with EmbeddedPostgres(folder) as postgres:
        dsn = str(postgres.dsn)
        assert holdfast("migrate", database_url=dsn).returncode == 0
        database = Database(make_conninfo(dsn))
        database.psql("alter system set synchronous_commit = 'local'")
        database.psql("alter system set synchronous_standby_names = 'far'; select pg_reload_conf()")
        assert "synchronous_commit is local" in error_line(holdfast(database_url=dsn))
        database.psql("alter system reset all")
        database.psql("alter system set max_connections = 20")
        database.psql(f"create role {SERVICE_ROLE} login")
        assert holdfast("grant", SERVICE_ROLE, database_url=dsn).returncode == 0
    with EmbeddedPostgres(folder), run_service(Database(dsn), workers=2):
        warning = "max_connections allows 17 connections, and 2 worker(s) may need 24"
        assert warning in RUN_LOG.read()
