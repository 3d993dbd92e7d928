"""The embedded PostgreSQL: for whoever has none, started and stopped with the service.

The data lives under ``DATA_DIR``, in a folder that names its major version, and outlives the
service. Nothing listens on TCP: a socket in a folder that one account may enter is the door.
The kernel stops the server when we are killed (PR_SET_PDEATHSIG), and a session of its own
keeps Ctrl-C from it until its clients have been answered.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

from service.embedded.parent import ending_with
from service.embedded.programs import EmbeddedError, find_programs

log = logging.getLogger(__name__)

SUPERUSER = DATABASE = "holdfast"
PORT = 5432
"""Only a part of the socket's name."""
KEEP_SECONDS = 0.5
START_SECONDS = 60
STOP_SECONDS = 30
LONGEST_SOCKET_PATH = 107
"""sun_path of unix(7), less the byte that ends it."""


class EmbeddedPostgres:
    """The PostgreSQL of one ``data_dir``.

    ``start`` starts it, or attaches to one that runs there already; ``stop`` stops what this
    object has started and nothing else. As a context manager it does both.
    """

    def __init__(self, data_dir: Path) -> None:
        self._found = find_programs()
        self._data_dir = data_dir
        self._server: subprocess.Popen[bytes] | None = None
        self._known_folder: Path | None = None
        self.cluster = data_dir / f"postgresql-{self._found.major}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server unless one runs on this data.

        The thread that calls it has to live for as long as the server may: the kernel stops
        the server with the thread that started it.

        Raises:
            EmbeddedError: when the data is of another major version, when its folder cannot be
                used, or when the server does not start.
        """
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]  # they speak of another database, and libpq would mix them in
        with self._alone():
            if self._wait_while(lambda status: status not in (None, "ready")) is None:
                self._refuse_other_versions()
                self._programs = self._found.within_reach(self._data_dir)
                if not self.cluster.exists():
                    self._initialise()
                self._launch()
                self._create_database()
            if (status := self._status()) is not None:
                self._known_folder = Path(status[0])

    @property
    def dsn(self) -> str | None:
        """The URL of the server that runs on this data, ours or another's; None if none does."""
        socket_folder, status = self._status() or (None, None)
        if status != "ready":
            return None
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(socket_folder or '', safe='/')}"

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Start the server again whenever it is gone, for as long as the block runs.

        It may have crashed, or it was another process that had started it and has ended.
        """
        done = threading.Event()

        def keep() -> None:
            while not done.wait(KEEP_SECONDS):
                if self.dsn is None:
                    log.warning("the embedded PostgreSQL is gone: it is started again")
                    try:
                        self.start()
                    except (EmbeddedError, OSError, subprocess.SubprocessError) as error:
                        log.warning("it does not start: %s", error)

        keeper = threading.Thread(target=keep, name="keeps PostgreSQL")
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def stop(self) -> None:
        """Stop the server if we started it: at once, with nothing lost; the clients are cut off."""
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
    def _alone(self) -> Iterator[None]:
        """One starter at a time; the kernel lets go of the lock with the process."""
        if closed := self._found.first_closed(self._data_dir):
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the account it runs as cannot enter "
                f"{closed}: set DATA_DIR to a folder below those that everybody may enter"
            )
        if "," in str(self._data_dir):
            raise EmbeddedError(f"DATA_DIR={self._data_dir} has a comma, which libpq takes apart")
        try:
            self._make_data_dir()
            lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            why = f"DATA_DIR={self._data_dir} cannot be used: {error.strerror}"
            raise EmbeddedError(why) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _make_data_dir(self) -> None:
        missing = [at for at in (self._data_dir, *self._data_dir.parents) if not at.exists()]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        if self._found.account is not None:
            for made in missing:  # whatever the umask says, the account has to come through
                made.chmod(0o755)

    def _refuse_other_versions(self) -> None:
        if self.cluster.exists():
            return
        for other in sorted(self._data_dir.glob("postgresql-*")):
            raise EmbeddedError(
                f"{other} holds data of another major version than our {self._found.major}: "
                f"carry it over with pg_dump and psql of its own version, or set another DATA_DIR"
            )

    def _initialise(self) -> None:
        """Make an empty cluster, whole or not at all: it gets its name when it is done."""
        # From version 17 on there is a Unicode locale that asks nothing of the machine.
        locale = ["--locale=C.UTF-8"]
        if self._programs.major >= 17:
            locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        for cut_off in self._data_dir.glob("new-*"):  # nobody else is here: we hold the lock
            shutil.rmtree(cut_off, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self._data_dir, prefix="new-") as making:
            self._programs.give_away(making)
            self._programs.run(
                "initdb",
                f"--pgdata={making}/cluster",
                f"--username={SUPERUSER}",
                "--auth=trust",  # of whoever may enter the folder of the socket
                "--encoding=UTF8",
                *locale,
            )
            Path(making, "cluster").rename(self.cluster)

    def _launch(self) -> None:
        first_words = self._data_dir / "startup.log"
        with first_words.open("wb") as output:
            self._server = subprocess.Popen(
                [
                    self._programs["postgres"],
                    *("-D", str(self.cluster), "-k", str(self._socket_folder())),
                    *("-p", str(PORT), "-c", "listen_addresses="),
                    *("-c", "unix_socket_permissions=0700"),
                    # A week of logs beside the data, a file for each day of it.
                    *("-c", "logging_collector=on", "-c", "log_filename=postgresql-%a.log"),
                    *("-c", "log_truncate_on_rotation=on", "-c", "log_rotation_size=0"),
                    # Without the detail and the statement of an error: either may name an owner.
                    *("-c", "log_error_verbosity=terse", "-c", "log_min_error_statement=panic"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                cwd=self.cluster if self._programs.account is None else "/",
                start_new_session=True,
                preexec_fn=ending_with(os.getpid(), signal.SIGINT),
                **self._programs.as_account(),
            )
        if self._wait_while(lambda status: status != "ready", self._server) != "ready":
            self.stop()
            raise EmbeddedError(f"PostgreSQL did not start in {self.cluster}: {self._last_word()}")

    def _last_word(self) -> str:
        """Return why the server has ended, as it said itself: its last error, in either log."""
        logs = [self._data_dir / "startup.log", *self.cluster.glob("log/*.log")]
        said = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        fatal = [line for line in said if "FATAL:" in line or "PANIC:" in line]
        return next(iter([*reversed(fatal), *reversed(said)]), "no word of why")

    def _create_database(self) -> None:
        socket_folder, _ = self._status() or ("", "")
        libpq = {"PGHOST": socket_folder, "PGUSER": SUPERUSER}
        listed = self._programs.run(
            "psql", "--no-psqlrc", "--list", "--tuples-only", "--no-align", "postgres", env=libpq
        )
        if not any(line.startswith(f"{DATABASE}|") for line in listed.splitlines()):
            self._programs.run("createdb", DATABASE, env=libpq)

    def _socket_folder(self) -> Path:
        """Return the folder of the socket: beside the data, or a short one where that is long."""
        if self._known_folder is not None and self._known_folder.is_dir():
            return self._known_folder  # whoever has our URL will look for the next server there
        folder = self._data_dir / "socket"
        if len(os.fsencode(folder / ".s.PGSQL.5432.lock")) > LONGEST_SOCKET_PATH:
            folder = Path(tempfile.mkdtemp(prefix="holdfast-", dir="/tmp"))
        folder.mkdir(mode=0o700, exist_ok=True)
        self._programs.give_away(folder)
        return folder

    def _wait_while(
        self, waits: Callable[[str | None], bool], server: subprocess.Popen[bytes] | None = None
    ) -> str | None:
        """Wait while the status is of a kind, and return the last one; None: nothing runs."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            _, status = self._status() or (None, None)
            ended = server is not None and server.poll() is not None
            if ended or not waits(status) or time.monotonic() > deadline:
                return status
            time.sleep(0.01)

    def _status(self) -> tuple[str, str] | None:
        """Return the folder of the socket and the status, as the running server has written them.

        postmaster.pid has the pid in line 1, the folder in line 5 and the status in line 8
        (src/include/utils/pidfile.h of PostgreSQL). A crash leaves it behind, and its pid may
        be another program's by now: only a living server on this very data counts.
        """
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            if self._server is not None and self._server.poll() is None:
                alive = int(lines[0]) == self._server.pid
            elif Path("/proc/self/cmdline").exists():
                words = Path(f"/proc/{int(lines[0])}/cmdline").read_bytes().split(b"\0")
                alive = os.fsencode(self.cluster) in words
            else:
                os.kill(int(lines[0]), 0)
                alive = True
            return (lines[4], lines[7].strip()) if alive else None
        except (OSError, ValueError, IndexError):
            return None
