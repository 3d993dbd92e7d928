"""The embedded PostgreSQL: found, started, kept, attached to, and stopped with nothing lost."""

import multiprocessing
import os
import pwd
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import EmbeddedError, Programs, find_programs
from tests.support.client import Client, code, is_live
from tests.support.database import Database
from tests.support.run_log import RUN_LOG
from tests.support.services import runs, served
from tests.support.waiting import WAIT_SECONDS, wait_until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


def state(folder: Path) -> str:
    """Return what PostgreSQL itself has written of its last end."""
    (cluster,) = folder.glob("postgresql-*")
    told = find_programs().run("pg_controldata", str(cluster))
    (line,) = [line for line in told.splitlines() if line.startswith("Database cluster state")]
    return line.partition(":")[2].strip()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_service_takes_its_database_with_it_and_finds_it_again(
    folder: Path, unused_port: int, how: signal.Signals
) -> None:
    with served(folder, unused_port) as (process, client):
        event = client.create_event(tickets=3)
        (ticket,) = client.hold(event)
        assert client.pay(ticket).status_code == 200
        process.send_signal(how)
        process.wait(WAIT_SECONDS)
        assert process.returncode == (0 if how != signal.SIGKILL else -signal.SIGKILL)
        wait_until(lambda: not runs(folder))
    assert state(folder) == "shut down"
    with served(folder, unused_port) as (_, client):
        assert client.event(event)["purchasedTickets"] == 1


def test_ctrl_c_reaches_postgres_only_after_its_clients_have_been_answered(
    folder: Path, unused_port: int
) -> None:
    with served(folder, unused_port) as (process, client), ThreadPoolExecutor(1) as pool:
        event = client.create_event()
        database = Database(str(EmbeddedPostgres(folder).dsn))
        with database.connect() as rival:
            rival.execute("select from events for update")
            waiting = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
            # It waited for the lock to the end, and no connection broke under it.
            assert code(waiting.result()) == (503, "BUSY")
        assert process.wait(WAIT_SECONDS) == 0


def test_a_killed_parent_leaves_neither_workers_nor_a_database(
    folder: Path, unused_port: int
) -> None:
    with served(folder, unused_port, WORKERS="2") as (process, client):
        client.create_event()
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_SECONDS)
        wait_until(lambda: not runs(folder))
        with Client(base_url=client.base_url, timeout=WAIT_SECONDS) as another:
            wait_until(lambda: not is_live(another))
    assert state(folder) == "shut down"


def test_a_killed_postgres_is_recovered_with_all_that_was_acknowledged(
    folder: Path, unused_port: int
) -> None:
    with served(folder, unused_port) as (_, client):
        event = client.create_event(tickets=3)
        client.hold(event, quantity=2)
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        killed = int(pid_file.read_text().splitlines()[0])
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: runs(folder) and f"{killed}\n" not in pid_file.read_text())
        # The service starts it again, although a postmaster.pid lies there.
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.event(event)["reservedTickets"] == 2
    # So does the next one, after the kill that ends the block.
    with served(folder, unused_port) as (_, client):
        assert client.event(event)["reservedTickets"] == 2


def test_a_killed_postgres_is_tried_again_whatever_keeps_it_from_starting(
    folder: Path, unused_port: int
) -> None:
    with served(folder, unused_port) as (_, client):
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        words = folder / "startup.log"
        words.unlink()
        words.mkdir()  # no file can be opened, as where there are too many open already
        os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGKILL)
        wait_until(lambda: "does not start" in RUN_LOG.told() and str(words) in RUN_LOG.told())
        words.rmdir()
        wait_until(lambda: client.get("/health").status_code == 200)


def test_a_second_starter_attaches_and_leaves_the_first_ones_server_running(folder: Path) -> None:
    with EmbeddedPostgres(folder) as first:
        with EmbeddedPostgres(folder) as second:
            assert second.dsn == first.dsn
        assert first.dsn is not None
        assert runs(folder)
    assert not runs(folder)
    assert first.dsn is None


def test_a_service_that_attached_goes_on_when_the_starter_ends(
    folder: Path, unused_port: int
) -> None:
    with EmbeddedPostgres(folder) as first, served(folder, unused_port) as (_, client):
        event = client.create_event()
        first.stop()
        wait_until(lambda: client.get("/health").status_code == 200)
        wait_until(lambda: client.reserve(event).status_code == 201)


def test_starters_at_once_start_one_server(folder: Path, unused_port: int) -> None:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder)}
    psql = [sys.executable, "-m", "service", "psql", "-Atc"]
    several = [
        subprocess.Popen([*psql, "select 1"], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    # A later one may be cut off by the end of the first, whose server it was; the data is whole.
    assert "1\n" in [one.communicate()[0] for one in several]
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


def test_a_path_may_have_what_a_url_may_not(folder: Path) -> None:
    with EmbeddedPostgres(folder / "a b&c%d?e") as postgres:
        assert Database(str(postgres.dsn)).psql("select 1") == ["1"]


def test_the_environment_of_another_database_does_not_turn_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "5433", "PGHOSTADDR": "192.0.2.1", "PGOPTIONS": "-c x"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(folder) as postgres:
        assert Database(str(postgres.dsn)).psql("select 1") == ["1"]


def test_a_path_too_long_for_a_socket_is_no_hindrance(folder: Path) -> None:
    with EmbeddedPostgres(folder / ("long" * 25)) as postgres:
        assert postgres.dsn is not None
        assert "longlong" not in postgres.dsn


def test_a_killed_postgres_is_found_again_also_where_its_path_is_too_long(
    folder: Path, unused_port: int
) -> None:
    data_dir = folder / ("long" * 25)
    with served(data_dir, unused_port) as (_, client):
        event = client.create_event()
        (pid_file,) = data_dir.glob("postgresql-*/postmaster.pid")
        killed = pid_file.read_text().partition("\n")[0]
        os.kill(int(killed), signal.SIGKILL)
        wait_until(lambda: runs(data_dir) and f"{killed}\n" not in pid_file.read_text())
        wait_until(lambda: client.reserve(event).status_code == 201)


def test_the_socket_is_the_accounts_alone(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        assert (folder / "socket").stat().st_mode & 0o777 == 0o700


def test_nothing_listens_on_tcp(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        (pid_file,) = folder.glob("postgresql-*/postmaster.pid")
        assert pid_file.read_text().splitlines()[5] == ""


@AS_ROOT
def test_root_is_told_when_the_account_cannot_enter_the_data_dir(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match=f"cannot enter {closed}: set DATA_DIR"):
        EmbeddedPostgres(closed / "data").start()
    assert not (closed / "data").exists()


@AS_ROOT
def test_programs_out_of_the_accounts_reach_are_copied_beside_the_data(folder: Path) -> None:
    found = find_programs()
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "wheel").symlink_to(found.top)
    inside = found.folder.relative_to(found.top)
    out_of_reach = Programs(
        hidden / "wheel", hidden / "wheel" / inside, found.version, found.account
    )
    data = folder / "data"
    data.mkdir()
    copied = out_of_reach.within_reach(data)
    assert copied.folder.is_relative_to(data)
    assert str(found.major) in copied.run("postgres", "--version")
    assert copied.run("psql", "--version")


@AS_ROOT
def test_a_normal_user_starts_it_as_root_does(folder: Path) -> None:
    if find_programs().first_closed(find_programs().folder):
        pytest.skip("this checkout lies where no other user may enter")
    somebody = pwd.getpwnam("nobody")
    os.chown(folder, somebody.pw_uid, somebody.pw_gid)

    def as_somebody(answers: "multiprocessing.SimpleQueue[str]") -> None:
        os.setgroups([])
        os.setgid(somebody.pw_gid)
        os.setuid(somebody.pw_uid)
        find_programs.cache_clear()  # it knows whom root runs them as
        with EmbeddedPostgres(folder) as postgres:
            answers.put(str(postgres.dsn))

    forking = multiprocessing.get_context("fork")
    answers = forking.SimpleQueue()
    child = forking.Process(target=as_somebody, args=(answers,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get().startswith("postgresql://holdfast@/holdfast?host=")
    assert {path.stat().st_uid for path in folder.glob("postgresql-*")} == {somebody.pw_uid}
