"""Stores: a Redis of the benchmark's own, and a disk that forgets what was not written through.

Neither is asked of a machine that lacks it: a trial says what it has left out.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from service.embedded.parent import ending_with

EXT4_IOC_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
"""_IOR('X', 125, __u32) of fs/ext4/ext4.h; 2: without writing its journal first."""
DISK_BYTES = 1 << 30


class Redis:
    """A redis-server on a socket, with its file in a folder."""

    def __init__(self, folder: Path, fsync: str) -> None:
        self._folder, self._fsync = folder, fsync
        self.socket = str(Path(tempfile.gettempdir(), f"holdfast-redis-{os.getpid()}"))

    @staticmethod
    def is_there() -> bool:
        """Whether this machine has one."""
        return all(map(shutil.which, ("redis-server", "redis-cli")))

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *("redis-server", "--port", "0", "--unixsocket", self.socket, "--save", ""),
                *("--dir", str(self._folder), "--appendonly", "yes"),
                *("--appendfsync", self._fsync),
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=ending_with(os.getpid(), signal.SIGKILL),
        )
        deadline = time.monotonic() + 30
        while self.ask("ping") != ["PONG"]:
            if time.monotonic() > deadline:
                raise RuntimeError("Redis does not answer")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, unless it was killed before."""
        self._process.terminate()
        self._process.wait(30)
        Path(self.socket).unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it with -9."""
        self._process.kill()
        self._process.wait()

    def ask(self, *words: str) -> list[str]:
        """Send a command and return the lines of its answer."""
        command = ["redis-cli", "-s", self.socket, "--raw", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.splitlines()


class Disk:
    """A disk in a file, of which only that outlives ``cut`` which was written through to it."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self.folder = image, folder

    @classmethod
    @contextmanager
    def made(cls) -> Iterator["Disk | None"]:
        """Make one and mount it for as long as the block runs; None where that is not allowed."""
        with tempfile.TemporaryDirectory(prefix="holdfast-disk-") as folder:
            Path(folder).chmod(0o755)
            disk = cls(Path(folder, "image"), Path(folder, "mounted"))
            disk.folder.mkdir()
            with disk._image.open("wb") as image:
                image.truncate(DISK_BYTES)
            try:
                _run("mkfs.ext4", "-q", str(disk._image))
                disk.mount()
            except (OSError, subprocess.CalledProcessError):
                yield None
                return
            try:
                yield disk
            finally:
                disk.unmount()

    def mount(self) -> None:
        """Have what is on it."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))
        self.folder.chmod(0o755)

    def unmount(self) -> None:
        """Take it away, as soon as nobody has a file of it open any more."""
        deadline = time.monotonic() + 30
        while True:
            try:
                _run("umount", str(self.folder))
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def cut(self) -> None:
        """Cut its power: what the kernel has not yet written to it is lost."""
        folder = os.open(self.folder, os.O_RDONLY)
        with suppress(OSError):
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))
        os.close(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
