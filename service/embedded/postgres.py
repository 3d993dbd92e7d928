"""The embedded PostgreSQL: a server that starts and stops with the service.

The data stays in ``DATA_DIR/postgresql-18``, the number being that of the major version. The
server listens on a Unix socket in a folder that only its account can enter, and not on TCP. When
the service is killed, the kernel stops the server (PR_SET_PDEATHSIG). The server has its own
session, so that Ctrl-C does not stop it before the service has sent its last responses.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from service.embedded.parent import stop_with_parent
from service.embedded.programs import EmbeddedError, find_programs
from service.temporary import TMP, TemporaryFolder, is_temporary

log = logging.getLogger(__name__)

SUPERUSER = DATABASE = "holdfast"
PORT = 5432  # only part of the socket's name
CHECK_SECONDS = 0.5  # between two checks that the server runs
START_SECONDS = 60
STOP_SECONDS = 30  # then SIGQUIT
MAX_SOCKET_PATH = 107  # bytes: sun_path of unix(7) without its final null byte


class EmbeddedPostgres:
    """The PostgreSQL of one ``data_dir``.

    ``start`` starts the server, or attaches to the one that already runs. ``stop`` stops the
    server only if this object started it. The context manager calls both.
    """

    def __init__(self, data_dir: Path) -> None:
        # The programs where they are installed. ``start`` sets ``_programs``: the same, or a copy
        # if PostgreSQL's account cannot enter that folder.
        self._installed = find_programs()
        self._data_dir = data_dir
        self._server: subprocess.Popen[bytes] | None = None
        self._last_socket_folder: Path | None = None
        # What contains the folder of the socket, if that is not in ``data_dir``.
        self._temporary: TemporaryFolder | None = None
        self.cluster = data_dir / f"postgresql-{self._installed.major}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server unless one runs on this data.

        Call it in a thread that lives as long as the server should: the kernel stops the server
        when the thread that started it ends.

        Raises:
            EmbeddedError: when the data has another major version, when its folder cannot be
                used, or when the server does not start.
        """
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]  # libpq would apply settings of another database to this one
        with self._lock():
            # Wait until a server that is starting is ready, or one that is stopping has ended.
            if self._wait_while(lambda status: status not in (None, "ready")) is None:
                self._refuse_other_versions()
                for leftover in self._data_dir.glob("new-*"):  # of a process that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                self._programs = self._installed.make_accessible(self._data_dir)
                if not self.cluster.exists():
                    self._initialize()
                self._launch()
                self._create_database()
            if (running := self._socket_and_status()) is not None:
                self._keep_socket_folder(Path(running[0]))

    @property
    def dsn(self) -> str | None:
        """The URL of the server that runs on this data, whichever process started it; or None."""
        socket_folder, status = self._socket_and_status() or (None, None)
        if status != "ready":
            return None
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(socket_folder or '', safe='/')}"

    @contextmanager
    def keep_running(self) -> Iterator[None]:
        """Restart the server whenever it has stopped, while the block runs.

        The server stops when it crashes. If another process had started it, and this one only
        attached to it, it also stops when that process ends.
        """
        done = threading.Event()

        def restart_when_stopped() -> None:
            while not done.wait(CHECK_SECONDS):
                if self.dsn is None:
                    log.warning("the embedded PostgreSQL has stopped: restarting it")
                    try:
                        self.start()
                    except (EmbeddedError, OSError, subprocess.SubprocessError) as error:
                        log.warning("the embedded PostgreSQL does not start: %s", error)

        supervisor = threading.Thread(target=restart_when_stopped, name="PostgreSQL supervisor")
        supervisor.start()
        try:
            yield
        finally:
            done.set()
            supervisor.join()

    def stop(self) -> None:
        """Stop the server if this object started it.

        SIGINT is PostgreSQL's fast shutdown: it closes all connections at once, and loses no
        committed transaction.
        """
        self._stop_server()
        if self._temporary is not None:
            self._temporary.close()
            self._temporary = None

    def _stop_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Create the data folder, and let one process at a time start the server in it.

        The kernel releases the lock when the process ends.
        """
        if folder := self._installed.first_inaccessible(self._data_dir):
            raise EmbeddedError(
                "PostgreSQL does not run as root, and the account that it runs as cannot enter "
                f"{folder}: set DATA_DIR to a folder that every user can enter"
            )
        if "," in str(self._data_dir):
            raise EmbeddedError(
                f"DATA_DIR={self._data_dir} is invalid: expected a path without commas, "
                "which separate hosts in libpq"
            )
        try:
            self._make_data_dir()
            lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedError(
                f"DATA_DIR={self._data_dir} cannot be used: {error.strerror}; set another DATA_DIR"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _make_data_dir(self) -> None:
        folders = (self._data_dir, *self._data_dir.parents)
        new_folders = [folder for folder in folders if not folder.exists()]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        if self._installed.account is not None:
            for folder in new_folders:  # the account must enter them, whatever the umask is
                folder.chmod(0o755)

    def _refuse_other_versions(self) -> None:
        if self.cluster.exists():
            return
        for other in sorted(self._data_dir.glob("postgresql-*")):
            raise EmbeddedError(
                f"{other} holds data of another major version, and {self._installed.major} is "
                "installed: dump it with pg_dump of its own version and restore the dump with "
                "psql, or set another DATA_DIR"
            )

    def _initialize(self) -> None:
        """Create an empty cluster, completely or not at all: it gets its name at the end."""
        # PostgreSQL 17 added a built-in Unicode locale, independent of the system's locales.
        locale = ["--locale=C.UTF-8"]
        if self._programs.major >= 17:
            locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        with tempfile.TemporaryDirectory(dir=self._data_dir, prefix="new-") as temporary:
            self._programs.chown(temporary)
            self._programs.run(
                "initdb",
                f"--pgdata={temporary}/cluster",
                f"--username={SUPERUSER}",
                "--auth=trust",  # only the account can enter the folder of the socket
                "--encoding=UTF8",
                *locale,
            )
            Path(temporary, "cluster").rename(self.cluster)

    def _launch(self) -> None:
        with (self._data_dir / "startup.log").open("wb") as output:
            self._server = subprocess.Popen(
                [
                    self._programs["postgres"],
                    *("-D", str(self.cluster), "-k", str(self._socket_folder())),
                    *("-p", str(PORT), "-c", "listen_addresses="),
                    *("-c", "unix_socket_permissions=0700"),
                    # A log file for each weekday, in the cluster: the last seven days.
                    *("-c", "logging_collector=on", "-c", "log_filename=postgresql-%a.log"),
                    *("-c", "log_truncate_on_rotation=on", "-c", "log_rotation_size=0"),
                    # Log an error without its detail and statement: they may contain a fingerprint.
                    *("-c", "log_error_verbosity=terse", "-c", "log_min_error_statement=panic"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                cwd=self.cluster if self._programs.account is None else "/",
                start_new_session=True,
                preexec_fn=stop_with_parent(os.getpid(), signal.SIGINT),
                **self._programs.account_options(),
            )
        if self._wait_while(lambda status: status != "ready", self._server) != "ready":
            self._stop_server()
            raise EmbeddedError(
                f"PostgreSQL did not start in {self.cluster}: {self._last_error()}; "
                f"see {self._data_dir / 'startup.log'}"
            )

    def _last_error(self) -> str:
        """Return the last fatal error in the server's logs, or else their last line."""
        logs = [self._data_dir / "startup.log", *self.cluster.glob("log/*.log")]
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        errors = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return next(iter([*reversed(errors), *reversed(lines)]), "it gave no reason")

    def _create_database(self) -> None:
        socket_folder, _ = self._socket_and_status() or ("", "")
        libpq = {"PGHOST": socket_folder, "PGUSER": SUPERUSER}
        databases = self._programs.run(
            "psql", "--no-psqlrc", "--list", "--tuples-only", "--no-align", "postgres", env=libpq
        )
        if not any(line.startswith(f"{DATABASE}|") for line in databases.splitlines()):
            self._programs.run("createdb", DATABASE, env=libpq)

    def _socket_folder(self) -> Path:
        """Return the folder of the socket: in ``DATA_DIR``, or in /tmp if that path is too long."""
        if self._last_socket_folder is not None and self._last_socket_folder.is_dir():
            return self._last_socket_folder  # the URL that clients have stays valid after a restart
        folder = self._data_dir / "socket"
        if len(os.fsencode(folder / ".s.PGSQL.5432.lock")) > MAX_SOCKET_PATH:
            temporary = self._temporary = TemporaryFolder.create("socket", TMP)
            temporary.path.chmod(0o711)  # PostgreSQL's account must enter it
            folder = temporary.path / "socket"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._programs.chown(folder)
        return folder

    def _keep_socket_folder(self, folder: Path) -> None:
        """Keep the folder of the running server's socket, for a restart with the same URL.

        If another process has made it in /tmp, it must not be removed with that process.
        """
        self._last_socket_folder = folder
        if self._temporary is not None and self._temporary.path != folder.parent:
            self._temporary.close()
            self._temporary = None
        is_in_data_dir = folder.parent == self._data_dir
        if self._temporary is None and not is_in_data_dir and is_temporary(folder.parent):
            with suppress(FileNotFoundError):  # the server is stopping
                self._temporary = TemporaryFolder(folder.parent)

    def _wait_while(
        self,
        keep_waiting: Callable[[str | None], bool],
        server: subprocess.Popen[bytes] | None = None,
    ) -> str | None:
        """Wait while the condition holds for the status, and return the last status.

        The wait ends after ``START_SECONDS`` and when ``server`` ends. None means that no
        server runs.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            _, status = self._socket_and_status() or (None, None)
            ended = server is not None and server.poll() is not None
            if ended or not keep_waiting(status) or time.monotonic() > deadline:
                return status
            time.sleep(0.01)

    def _socket_and_status(self) -> tuple[str, str] | None:
        """Return the socket's folder and the status from the running server's postmaster.pid.

        The file has the pid in line 1, the folder in line 5 and the status in line 8
        (src/include/utils/pidfile.h of PostgreSQL). It remains after a crash, and its pid may
        since belong to another program: return None unless a server runs on this data.
        """
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            if self._server is not None and self._server.poll() is None:
                is_running = int(lines[0]) == self._server.pid
            elif Path("/proc/self/cmdline").exists():
                arguments = Path(f"/proc/{int(lines[0])}/cmdline").read_bytes().split(b"\0")
                is_running = os.fsencode(self.cluster) in arguments
            else:
                os.kill(int(lines[0]), 0)
                is_running = True
            return (lines[4], lines[7].strip()) if is_running else None
        except (OSError, ValueError, IndexError):
            return None
