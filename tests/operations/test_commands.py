"""The commands: what a person types, and what comes back."""

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
from service.settings import resource
from tests.support.commands import holdfast, refused
from tests.support.database import SERVICE_ROLE, Database
from tests.support.run_log import RUN_LOG
from tests.support.services import serving

STATEMENTS = load_statements(resource("sql"))


def test_migrate_applies_what_is_pending(empty_database: Database) -> None:
    done = holdfast("migrate", database_url=empty_database.dsn)
    assert done.stdout.splitlines() == [f"applied {name}" for name in migration_names()]
    done = holdfast("migrate", database_url=empty_database.dsn)
    assert (done.returncode, done.stdout) == (0, "nothing to apply\n")


def test_migrate_takes_a_user_without_a_name(empty_database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "migrate"],
        env={"DATABASE_URL": empty_database.dsn, "USER": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_serve_refuses_a_database_that_lacks_migrations(empty_database: Database) -> None:
    said = refused(holdfast("serve", database_url=empty_database.dsn))
    assert f"lacks {len(migration_names())} migrations, the first is 0001_events" in said
    assert "holdfast migrate" in said


def test_serve_ends_with_one_line_when_the_database_is_not_there() -> None:
    said = refused(holdfast(database_url="postgresql://me:s3cret@127.0.0.1:1/tickets"))
    assert "127.0.0.1:1, database tickets: Connection refused" in said
    assert "s3cret" not in said


def test_serve_says_why_a_database_that_is_there_cannot_be_reached(database: Database) -> None:
    dsn = re.sub(r"@/\w+", ":s3cret@/no-such", database.dsn)
    said = refused(holdfast("serve", database_url=dsn))
    assert said.endswith(': database "no-such" does not exist\n')
    assert "s3cret" not in said


@pytest.mark.parametrize("command", ["serve", "migrate", "dsn"])
def test_a_url_that_libpq_does_not_understand_is_not_repeated(command: str) -> None:
    said = refused(holdfast(command, database_url="postgresql://me:s3cret%zz@db/tickets"))
    assert "DATABASE_URL" in said
    assert "s3cret" not in said


def test_serve_ends_with_one_line_when_its_port_is_taken(database: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = holdfast(database_url=database.dsn, port=port)
    assert done.returncode == 1
    assert f"PORT={port} cannot be listened on" in done.stderr.splitlines()[-1]


def test_a_setting_that_is_not_understood_ends_the_start() -> None:
    assert "WORKERS=many" in refused(holdfast(workers="many"))


def test_a_broken_statement_ends_the_start(database: Database, tmp_path: Path) -> None:
    (tmp_path / "lock_events.sql").write_text("-- lock_events\n\nselect 1")
    said = refused(holdfast(database_url=database.dsn, sql_dir=tmp_path))
    assert "lock_events" in said


def test_a_statement_that_postgresql_does_not_understand_ends_the_start(
    database: Database, tmp_path: Path
) -> None:
    shutil.copytree(resource("sql"), tmp_path, dirs_exist_ok=True)
    broken = tmp_path / "find_events.sql"
    broken.write_text(broken.read_text().replace("events.version", "events.no_such"))
    said = refused(holdfast(database_url=database.dsn, sql_dir=tmp_path))
    assert "find_events.sql" in said
    assert "no_such" in said


def test_dsn_prints_one_line_for_psql_and_one_for_yoyo(database: Database) -> None:
    assert holdfast("dsn", database_url=database.dsn).stdout == f"{database.dsn}\n"
    done = holdfast("dsn", "--yoyo", database_url=database.dsn)
    assert done.stdout.startswith("postgresql+psycopg:///?")


def test_dsn_says_when_the_embedded_database_does_not_run(tmp_path: Path) -> None:
    assert "no embedded PostgreSQL runs" in refused(holdfast("dsn", data_dir=tmp_path))


def test_psql_opens_the_database_with_the_arguments_of_psql(database: Database) -> None:
    done = holdfast(
        *("psql", "-At", "-v", "event_ids={}", "-v", "ticket_ids={}"),
        *("-c", "select 1 + 1", "-f", "sql/lock_events.sql"),
        database_url=database.dsn,
    )
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert holdfast("psql", "-c", "select", "-X", database_url=database.dsn).returncode == 0


def test_sql_lists_every_statement() -> None:
    listed = holdfast("sql").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(STATEMENTS)
    assert max(len(line) for line in listed) <= 100


def test_sql_prints_a_line_that_runs(database: Database) -> None:
    line = holdfast("sql", "create_event", "name=It's on", "total_tickets=7").stdout
    assert line.startswith("holdfast psql -v ")
    done = holdfast(*shlex.split(line)[1:], database_url=database.dsn)
    assert done.returncode == 0, done.stderr
    assert database.psql("select name, total_tickets from events") == ["It's on|7"]


def test_sql_explains_a_statement_and_undoes_it(database: Database) -> None:
    done = holdfast("sql", "create_event", "--explain", database_url=database.dsn)
    assert "Insert on events" in done.stdout
    assert "Buffers:" in done.stdout
    assert database.psql("select count(*) from events") == ["0"]


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("127.0.0.1", "", False), ("0.0.0.0", "", True), ("0.0.0.0", "secret", False)],  # noqa: S104
)
def test_the_start_says_when_everybody_may_organize(
    database: Database, unused_port: int, host: str, token: str, warned: bool
) -> None:
    before = len(RUN_LOG.told())
    with serving(database, host=host, organizer_token=token):
        said = RUN_LOG.told()[before:]
    assert ("everybody who can reach it may organise" in said) == warned


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_serve_refuses_a_database_that_could_forget(
    data_dir: Path, setting: str, database: Database
) -> None:
    # A server of its own: the others are asked to remember.
    folder = data_dir / "forgetful"
    with EmbeddedPostgres(folder) as postgres:
        dsn = str(postgres.dsn)
        assert holdfast("migrate", database_url=dsn).returncode == 0
        forgetful = Database(make_conninfo(dsn))
        forgetful.psql(f"alter system set {setting} = off")
        forgetful.psql("select pg_reload_conf()")
        said = refused(holdfast(database_url=dsn))
        assert f"{setting} is off" in said
        forgetful.psql(f"alter system reset {setting}")


def test_serve_warns_of_what_will_be_troublesome_and_refuses_a_failover_that_loses(
    data_dir: Path,
) -> None:
    folder = data_dir / "troublesome"
    with EmbeddedPostgres(folder) as postgres:
        dsn = str(postgres.dsn)
        assert holdfast("migrate", database_url=dsn).returncode == 0
        database = Database(make_conninfo(dsn))
        database.psql("alter system set synchronous_commit = 'local'")
        database.psql("alter system set synchronous_standby_names = 'far'; select pg_reload_conf()")
        assert "synchronous_commit is local" in refused(holdfast(database_url=dsn))
        database.psql("alter system reset all")
        database.psql("alter system set max_connections = 20")
        database.psql(f"create role {SERVICE_ROLE} login")
        assert holdfast("grant", SERVICE_ROLE, database_url=dsn).returncode == 0
    with EmbeddedPostgres(folder), serving(Database(dsn), workers=2):
        assert "max_connections leaves 17, and 2 worker(s) may need 22" in RUN_LOG.told()
