"""The embedded PostgreSQL: started, attached to, restarted, and stopped without lost data."""

import multiprocessing
import os
import pwd
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.embedded.parent import stop_with_parent
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import EmbeddedError, Programs, find_programs
from tests.support.client import Client, code, is_live
from tests.support.database import Database
from tests.support.run_log import RUN_LOG
from tests.support.services import is_postgres_running, run_embedded_service
from tests.support.waiting import WAIT_SECONDS, wait_until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def cluster_state(folder: Path) -> str:
    """Return the state of a stopped PostgreSQL, from pg_controldata."""
    (cluster,) = folder.glob("postgresql-*")
    output = find_programs().run("pg_controldata", str(cluster))
    (line,) = [line for line in output.splitlines() if line.startswith("Database cluster state")]
    return line.partition(":")[2].strip()


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_database_stops_with_the_service_and_keeps_its_data(
    folder: Path, unused_port: int, stop_signal: signal.Signals
) -> None:
    with run_embedded_service(folder, unused_port) as (process, client):
        event = client.create_event(tickets=3)
        (ticket,) = client.hold(event)
        assert client.pay(ticket).status_code == 200
        process.send_signal(stop_signal)
        process.wait(WAIT_SECONDS)
        assert process.returncode == (0 if stop_signal != signal.SIGKILL else -signal.SIGKILL)
        wait_until(lambda: not is_postgres_running(folder))
    assert cluster_state(folder) == "shut down"
    with run_embedded_service(folder, unused_port) as (_, client):
        assert client.find_event(event)["purchasedTickets"] == 1


def test_ctrl_c_stops_postgresql_after_the_last_responses(folder: Path, unused_port: int) -> None:
    with (
        run_embedded_service(folder, unused_port) as (process, client),
        ThreadPoolExecutor(1) as pool,
    ):
        event = client.create_event()
        database = Database(str(EmbeddedPostgres(folder).dsn))
        with database.connect() as other:
            other.execute("select from events for update")
            reservation = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
            # The change waited until the lock timeout, and its connection stayed open.
            assert code(reservation.result()) == (503, "BUSY")
        assert process.wait(WAIT_SECONDS) == 0


def test_workers_and_the_database_stop_when_the_parent_is_killed(
    folder: Path, unused_port: int
) -> None:
    with run_embedded_service(folder, unused_port, WORKERS="2") as (process, client):
        client.create_event()
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_SECONDS)
        wait_until(lambda: not is_postgres_running(folder))
        with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as another:
            wait_until(lambda: not is_live(another))
    assert cluster_state(folder) == "shut down"


def test_a_killed_postgresql_recovers_all_acknowledged_changes(
    folder: Path, unused_port: int
) -> None:
    with run_embedded_service(folder, unused_port) as (_, client):
        event = client.create_event(tickets=3)
        client.hold(event, quantity=2)
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        killed = int(pid_file.read_text().splitlines()[0])
        os.kill(killed, signal.SIGKILL)
        wait_until(
            lambda: is_postgres_running(folder) and f"{killed}\n" not in pid_file.read_text()
        )
        # The service restarts it, although postmaster.pid remains.
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.find_event(event)["reservedTickets"] == 2
    # The next service finds them, too: the end of the block has killed this one.
    with run_embedded_service(folder, unused_port) as (_, client):
        assert client.find_event(event)["reservedTickets"] == 2


def test_a_restart_that_fails_is_retried(folder: Path, unused_port: int) -> None:
    with run_embedded_service(folder, unused_port) as (_, client):
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        log = folder / "startup.log"
        log.unlink()
        log.mkdir()  # it cannot be opened as a file
        os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGKILL)
        wait_until(lambda: "does not start" in RUN_LOG.read() and str(log) in RUN_LOG.read())
        log.rmdir()
        wait_until(lambda: client.get("/health").status_code == 200)


def test_a_second_starter_attaches_and_does_not_stop_the_server(folder: Path) -> None:
    with EmbeddedPostgres(folder) as first:
        with EmbeddedPostgres(folder) as second:
            assert second.dsn == first.dsn
        assert first.dsn is not None
        assert is_postgres_running(folder)
    assert not is_postgres_running(folder)
    assert first.dsn is None


def test_an_attached_service_restarts_the_server_of_another_starter(
    folder: Path, unused_port: int
) -> None:
    with (
        EmbeddedPostgres(folder) as first,
        run_embedded_service(folder, unused_port) as (_, client),
    ):
        event = client.create_event()
        first.stop()
        wait_until(lambda: client.get("/health").status_code == 200)
        wait_until(lambda: client.reserve(event).status_code == 201)


def test_concurrent_starters_start_one_server(folder: Path, unused_port: int) -> None:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder)}
    psql = [sys.executable, "-m", "service", "psql", "-Atc"]
    processes = [
        subprocess.Popen([*psql, "select 1"], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    # The server stops with the process that started it, which may disconnect the others.
    assert "1\n" in [process.communicate()[0] for process in processes]
    assert not list(folder.glob("new-*"))


def test_data_of_another_major_version_is_refused(folder: Path) -> None:
    (folder / "postgresql-14").mkdir()
    with pytest.raises(EmbeddedError, match=r"postgresql-14 holds data of another major version"):
        EmbeddedPostgres(folder).start()
    assert [path.name for path in folder.glob("postgresql-*")] == ["postgresql-14"]


def test_a_data_dir_that_cannot_be_written_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedError, match="cannot be used"):
        EmbeddedPostgres(folder / "file" / "below").start()


def test_a_path_may_contain_characters_that_a_url_escapes(folder: Path) -> None:
    with EmbeddedPostgres(folder / "a b&c%d?e") as postgres:
        assert Database(str(postgres.dsn)).psql("select 1") == ["1"]


def test_variables_of_another_database_are_ignored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "5433", "PGHOSTADDR": "192.0.2.1", "PGOPTIONS": "-c x"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(folder) as postgres:
        assert Database(str(postgres.dsn)).psql("select 1") == ["1"]


def test_a_path_may_be_too_long_for_a_socket(folder: Path) -> None:
    with EmbeddedPostgres(folder / ("long" * 25)) as postgres:
        assert postgres.dsn is not None
        assert "longlong" not in postgres.dsn


def test_a_killed_postgresql_is_restarted_when_its_path_is_too_long(
    folder: Path, unused_port: int
) -> None:
    data_dir = folder / ("long" * 25)
    with run_embedded_service(data_dir, unused_port) as (_, client):
        event = client.create_event()
        (pid_file,) = data_dir.glob("postgresql-*/postmaster.pid")
        killed = pid_file.read_text().partition("\n")[0]
        os.kill(int(killed), signal.SIGKILL)
        wait_until(
            lambda: is_postgres_running(data_dir) and f"{killed}\n" not in pid_file.read_text()
        )
        wait_until(lambda: client.reserve(event).status_code == 201)


def test_only_the_account_can_enter_the_socket_folder(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        assert (folder / "socket").stat().st_mode & 0o777 == 0o700


def test_postgresql_does_not_listen_on_tcp(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        assert pid_file.read_text().splitlines()[5] == ""


@AS_ROOT
def test_a_data_dir_that_the_account_cannot_enter_is_an_error(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match=f"cannot enter {closed}: set DATA_DIR"):
        EmbeddedPostgres(closed / "data").start()
    assert not (closed / "data").exists()


@AS_ROOT
def test_programs_that_the_account_cannot_run_are_copied(folder: Path) -> None:
    installed = find_programs()
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "wheel").symlink_to(installed.top)
    relative = installed.folder.relative_to(installed.top)
    inaccessible = Programs(
        hidden / "wheel", hidden / "wheel" / relative, installed.version, installed.account
    )
    data = folder / "data"
    data.mkdir()
    copy = inaccessible.make_accessible(data)
    assert copy.folder.is_relative_to(data)
    assert str(installed.major) in copy.run("postgres", "--version")
    assert copy.run("psql", "--version")


@AS_ROOT
def test_a_normal_user_can_start_it(folder: Path) -> None:
    if find_programs().first_inaccessible(find_programs().folder):
        pytest.skip("other users cannot enter the folder of this checkout")
    user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)

    def start_as_user(urls: "multiprocessing.SimpleQueue[str]") -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        find_programs.cache_clear()  # the cached programs have the account that root uses
        with EmbeddedPostgres(folder) as postgres:
            urls.put(str(postgres.dsn))

    forking = multiprocessing.get_context("fork")
    urls = forking.SimpleQueue()
    child = forking.Process(target=start_as_user, args=(urls,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert urls.get().startswith("postgresql://holdfast@/holdfast?host=")
    assert {path.stat().st_uid for path in folder.glob("postgresql-*")} == {user.pw_uid}


def test_a_child_stops_on_sigint_where_its_parent_ignores_sigint() -> None:
    """A shell ignores SIGINT in what it runs in the background, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            ["/bin/sleep", "60"], preexec_fn=stop_with_parent(os.getpid(), signal.SIGINT)
        )
    finally:
        signal.signal(signal.SIGINT, before)
    child.send_signal(signal.SIGINT)
    assert child.wait(WAIT_SECONDS) == -signal.SIGINT
