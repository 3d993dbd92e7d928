"""Temporary folders: what a killed process leaves, the next start removes, and nothing else."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.temporary import BOOT_ID, TemporaryFolder, remove_abandoned_folders
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.services import (
    is_postgres_running,
    run_embedded_service,
    run_service,
    worker_pids,
)
from tests.support.waiting import WAIT_SECONDS, wait_until


@pytest.fixture(autouse=True)
def tmpdir_of_this_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process use the folder of the test as TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@contextmanager
def run_user(path: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a process that creates a temporary folder, or uses one; kill it at the end."""
    use = f"TemporaryFolder(Path({str(path)!r}))" if path else "TemporaryFolder.create('test')"
    program = (
        "import signal; from pathlib import Path; from service.temporary import TemporaryFolder;"
        f"folder = {use}; print(folder.path, flush=True); signal.pause()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().rstrip("\n"))
        finally:
            process.kill()


def left_by_a_killed_process() -> Path:
    """Return a folder whose only user was killed."""
    with run_user() as (_, path):
        assert path.is_dir()
    assert path.is_dir()
    return path


def test_the_folder_of_a_killed_process_goes_and_of_a_living_one_stays() -> None:
    abandoned = left_by_a_killed_process()
    (abandoned / "file").touch()
    with run_user() as (_, used):
        remove_abandoned_folders()
        assert not abandoned.exists()
        assert used.is_dir()


def test_a_folder_stays_until_its_last_user_has_ended() -> None:
    with run_user() as (creator, path), run_user(path):
        creator.kill()
        creator.wait(WAIT_SECONDS)
        remove_abandoned_folders()
        assert path.is_dir()
    remove_abandoned_folders()
    assert not path.exists()


def test_the_last_user_of_a_folder_removes_it() -> None:
    first = TemporaryFolder.create("test")
    second = TemporaryFolder(first.path)
    first.close()
    assert first.path.is_dir()
    second.close()
    assert not first.path.exists()


def test_a_folder_that_was_just_removed_cannot_be_used(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TemporaryFolder(folder / "gone")


def test_the_folder_of_another_machine_stays() -> None:
    abandoned = left_by_a_killed_process()
    of_another = abandoned.with_name(abandoned.name.replace(BOOT_ID, "0" * len(BOOT_ID)))
    abandoned.rename(of_another)
    remove_abandoned_folders()
    assert of_another.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_the_folder_of_another_user_stays() -> None:
    abandoned = left_by_a_killed_process()
    os.chown(abandoned, pwd.getpwnam("nobody").pw_uid, -1)
    remove_abandoned_folders()
    assert abandoned.is_dir()


def test_a_link_is_not_followed(folder: Path) -> None:
    target = folder / "target"
    target.mkdir()
    (folder / f"holdfast-test-{BOOT_ID}-x").symlink_to(target)
    remove_abandoned_folders()
    assert target.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_folder_with_a_mount_stays() -> None:
    abandoned = left_by_a_killed_process()
    mounted = abandoned / "mounted"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "none", str(mounted)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    try:
        (mounted / "file").touch()
        remove_abandoned_folders()
        assert (mounted / "file").exists()
    finally:
        umount = ["umount", str(mounted)]
        subprocess.run(umount, check=True)


def test_the_next_start_removes_the_metrics_of_a_killed_service(
    database: Database, folder: Path
) -> None:
    def metrics_folders() -> set[Path]:
        return set(folder.glob("holdfast-metrics-*"))

    with ExitStack() as stack:
        stack.enter_context(run_service(database, workers=2, tmpdir=folder))
        living = metrics_folders()
        killed = stack.enter_context(run_service(database, workers=2, tmpdir=folder)).process
        assert killed is not None
        left = metrics_folders() - living
        assert len(living) == len(left) == 1
        workers = worker_pids(killed.pid)
        killed.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        assert metrics_folders() == living | left
        # A service with one worker has no such folder, but removes it nevertheless.
        stack.enter_context(run_service(database, tmpdir=folder))
        assert metrics_folders() == living
    assert metrics_folders() == set()


def test_the_workers_of_a_killed_service_keep_their_metrics(
    database: Database, folder: Path
) -> None:
    with run_service(database, workers=2, tmpdir=folder) as client:
        assert client.process is not None
        (metrics_folder,) = folder.glob("holdfast-metrics-*")
        workers = worker_pids(client.process.pid)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        client.process.kill()
        client.process.wait(WAIT_SECONDS)
        remove_abandoned_folders()
        assert metrics_folder.is_dir()
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    remove_abandoned_folders()
    assert not metrics_folder.exists()


def socket_folder(data_dir: Path) -> Path:
    """Return the temporary folder of a running server's socket."""
    (pid_file,) = data_dir.glob("postgresql-*/postmaster.pid")
    return Path(pid_file.read_text().splitlines()[4]).parent


def test_the_next_start_removes_the_socket_of_a_killed_service(
    folder: Path, unused_port: int
) -> None:
    data_dir = folder / ("long" * 25)
    with run_embedded_service(data_dir, unused_port) as (process, _):
        left = socket_folder(data_dir)
        process.kill()
        process.wait(WAIT_SECONDS)
        wait_until(lambda: not is_postgres_running(data_dir))
        assert left.is_dir()
    with run_embedded_service(data_dir, unused_port) as (process, _):
        assert not left.exists()
        used = socket_folder(data_dir)
        process.terminate()
        process.wait(WAIT_SECONDS)
        assert not used.exists()


def test_the_socket_stays_while_another_process_uses_the_server(folder: Path) -> None:
    data_dir = folder / ("long" * 25)
    with EmbeddedPostgres(data_dir) as first, EmbeddedPostgres(data_dir) as second:
        url, used = second.dsn, socket_folder(data_dir)
        first.stop()
        remove_abandoned_folders()
        assert used.is_dir()
        second.start()
        assert second.dsn == url
        assert Database(str(url)).psql("select 1") == ["1"]
    assert not used.exists()


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_benchmark_leaves_no_process_and_no_folder_behind(
    folder: Path, stop_signal: signal.Signals
) -> None:
    def processes() -> list[Path]:
        """Return the processes that have the folder in their arguments or environment."""
        mark = os.fsencode(folder)
        return [
            process
            for process in Path("/proc").glob("[0-9]*")
            if int(process.name) != os.getpid()
            and mark in read(process / "cmdline") + read(process / "environ")
        ]

    benchmark = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks", "--rounds", "1", "--seconds", "60"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # PostgreSQL, and the service or what it is compared with.
    wait_until(lambda: len([pid for pid in processes() if b"service" in read(pid / "cmdline")]) > 0)
    assert len(list(folder.glob("holdfast-bench-*"))) == 1
    benchmark.send_signal(stop_signal)
    code = benchmark.wait(WAIT_SECONDS)
    assert code == (143 if stop_signal == signal.SIGTERM else -signal.SIGKILL)
    wait_until(lambda: processes() == [])
    assert bool(list(folder.glob("holdfast-*"))) == (stop_signal == signal.SIGKILL)

    def is_empty_after_a_start() -> bool:
        remove_abandoned_folders()
        return list(folder.glob("holdfast-*")) == []

    wait_until(is_empty_after_a_start)  # when the kernel has closed the files of the last process


def read(file: Path) -> bytes:
    """Return what is in a file of /proc; nothing if its process has ended."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_what_a_killed_start_of_the_database_left_is_removed(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        pass
    shutil.copytree(ROOT / "sql", folder / "new-killed")
    with EmbeddedPostgres(folder):
        assert not (folder / "new-killed").exists()
