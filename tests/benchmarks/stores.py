"""Stores: a temporary Redis, and a disk that loses everything not flushed to it.

A trial skips what the machine does not have, and says so.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from service.embedded.parent import stop_with_parent
from service.temporary import TemporaryFolder

# _IOR('X', 125, __u32) of fs/ext4/ext4.h. Its argument 2 means: do not flush the journal.
EXT4_IOC_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
DISK_BYTES = 1 << 30


class Redis:
    """A redis-server on a Unix socket, with its data in a folder."""

    def __init__(self, folder: Path, fsync: str) -> None:
        self._folder, self._fsync = folder, fsync

    @staticmethod
    def is_installed() -> bool:
        """Return whether Redis is installed."""
        return all(map(shutil.which, ("redis-server", "redis-cli")))

    def __enter__(self) -> Self:
        """Start Redis and wait until it responds."""
        # Not with the data, whose path may be too long, or whose disk may fail.
        self._socket_folder = TemporaryFolder.create("redis")
        self.socket = str(self._socket_folder.path / "socket")
        self._process = subprocess.Popen(
            [
                *("redis-server", "--port", "0", "--unixsocket", self.socket, "--save", ""),
                *("--dir", str(self._folder), "--appendonly", "yes"),
                *("--appendfsync", self._fsync),
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=stop_with_parent(os.getpid(), signal.SIGKILL),
        )
        deadline = time.monotonic() + 30
        while self.call("ping") != ["PONG"]:
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server does not respond within 30 s")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop Redis, if it is still running."""
        self._process.terminate()
        self._process.wait(30)
        self._socket_folder.close()

    def kill(self) -> None:
        """Kill Redis with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def call(self, *words: str) -> list[str]:
        """Send a command and return the lines of the response."""
        command = ["redis-cli", "-s", self.socket, "--raw", *words]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        return process.stdout.splitlines()


class Disk:
    """A file system in a file; ``cut`` loses everything that was not flushed to it."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self.folder = image, folder

    @classmethod
    @contextmanager
    def create(cls) -> Iterator["Disk | None"]:
        """Create and mount a disk for as long as the block runs; yield None without the right."""
        with TemporaryFolder.create("disk") as folder:
            folder.path.chmod(0o755)
            disk = cls(folder.path / "image", folder.path / "mounted")
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
        """Mount the file system."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))
        self.folder.chmod(0o755)

    def unmount(self) -> None:
        """Unmount the file system as soon as none of its files is open."""
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
        """Simulate a power cut: data that the kernel has not written yet is lost."""
        folder = os.open(self.folder, os.O_RDONLY)
        with suppress(OSError):
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))
        os.close(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
