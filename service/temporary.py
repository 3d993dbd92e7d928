"""Temporary folders that do not outlive the processes that use them.

Each of these processes holds a shared lock on the folder (flock), which the kernel releases when
the process ends, however it ends. The last one removes the folder. If that one was killed, the next
start of any command removes it: nobody has it locked.

A lock says nothing about other machines that share the file system. So the name of a folder
contains the boot ID of its kernel, and only folders of this kernel are removed. Containers of one
machine share the kernel and its locks. What is left when the machine itself goes down is removed by
the system (systemd-tmpfiles).
"""

import fcntl
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

log = logging.getLogger(__name__)

# Where paths are short, and where every account may enter. TMPDIR may name another folder.
TMP = Path("/tmp")  # noqa: S108 - mkdtemp makes unpredictable names


def _read_boot_id() -> str:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""  # not Linux: there nothing is removed that a killed process left
    return boot_id.replace("-", "")[:12]


BOOT_ID = _read_boot_id()


class TemporaryFolder:
    """A temporary folder in use by this process.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: it is not there, or has just been removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The open folder with its lock. A child that inherits it shares the lock.
        self.lock = _open(path)
        with suppress(OSError):  # a file system without locks: nobody can lock it to remove it
            fcntl.flock(self.lock, fcntl.LOCK_SH)
        if not path.exists():
            os.close(self.lock)
            raise FileNotFoundError(path)

    @classmethod
    def create(cls, kind: str, parent: Path | None = None) -> Self:
        """Create a folder ``holdfast-<kind>-<boot ID>-<random>`` that only this user can enter.

        Args:
            kind: what it is for.
            parent: where; None for TMPDIR or else /tmp.
        """
        while True:
            path = Path(tempfile.mkdtemp(prefix=f"holdfast-{kind}-{BOOT_ID}-", dir=parent))
            with suppress(FileNotFoundError):  # removed before it was locked
                return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop using the folder, and remove it unless another process uses it."""
        is_used = False
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_used = True
        except OSError:  # a file system without locks: it is ours alone
            pass
        if not is_used:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def is_temporary(path: Path) -> bool:
    """Whether a path is that of a temporary folder of this kernel."""
    return bool(BOOT_ID) and path.match(f"holdfast-*-{BOOT_ID}-*")


def remove_abandoned_folders() -> None:
    """Remove this user's temporary folders that no process of this machine uses any more."""
    parents = {TMP}
    with suppress(FileNotFoundError):  # there is no folder to write to
        parents.add(Path(tempfile.gettempdir()))
    for path in [path for parent in parents for path in parent.glob("holdfast-*")]:
        if is_temporary(path):
            with suppress(OSError):  # it is used, belongs to another user, or has just gone
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    lock = _open(path)
    try:
        is_ours = os.fstat(lock).st_uid == os.geteuid()
        if is_ours and not any(child.is_mount() for child in path.iterdir()):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if a process uses it
            shutil.rmtree(path, ignore_errors=True)
            log.info("removed %s, left by a process that was killed", path)
    finally:
        os.close(lock)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
