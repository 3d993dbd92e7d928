"""A PostgreSQL in a network namespace of its own, behind a cable that a test can cut.

When the cable is cut nothing arrives and nothing is refused, as when a host or a route disappears.
Only this shows what the kernels' own timeouts do: a proxy would acknowledge what it receives.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.embedded.programs import find_programs
from tests.support.database import Database
from tests.support.tools import PATH, needs
from tests.support.waiting import wait_until


def _can_create_namespaces() -> bool:
    tools = [shutil.which(name, path=PATH) for name in ("unshare", "ip", "nsenter", "setpriv")]
    if os.geteuid() != 0 or not all(tools):
        return False
    return subprocess.run([str(tools[0]), "--net", "true"], check=False).returncode == 0


NEEDS_NAMESPACES = needs(_can_create_namespaces(), "network namespaces need root, and iproute2")


class RemotePostgres:
    """A PostgreSQL that is reached over a pair of network devices.

    Attributes:
        database: its database ``postgres`` over the cable, as the service connects.
        local: the same over its Unix socket, which needs no cable.
    """

    def __init__(self, folder: Path) -> None:
        programs = find_programs().make_accessible(folder)
        programs.chown(folder)
        data, network = folder / "data", f"198.18.{random.randrange(256)}"
        programs.run(
            "initdb",
            *(f"--pgdata={data}", "--username=holdfast", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C.UTF-8"),
        )
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network}.0/30 trust\n")
        account = programs.account
        assert account is not None
        with (folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [
                    *("unshare", "--net", "setpriv", "--pdeathsig", "INT", "--clear-groups"),
                    *(f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"),
                    *(programs["postgres"], "-D", str(data), "-k", str(folder)),
                    *("-c", "listen_addresses=*"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": PATH, "LC_ALL": "C"},
                cwd="/",
            )
        device = f"hf{self._server.pid}"
        wait_until((folder / ".s.PGSQL.5432").exists, "PostgreSQL did not start: see its log")
        self._run("ip", "link", "add", device, "type", "veth", "peer", "name", "cable")
        self._run("ip", "link", "set", "cable", "netns", str(self._server.pid))
        self._run("ip", "address", "add", f"{network}.1/30", "dev", device)
        self._run("ip", "link", "set", device, "up")
        self._run_inside("ip", "address", "add", f"{network}.2/30", "dev", "cable")
        self.restore()
        self.local = Database(f"postgresql://holdfast@/postgres?host={folder}")
        self.database = Database(f"postgresql://holdfast@{network}.2/postgres")

    def cut(self) -> None:
        """Cut the cable."""
        self._run_inside("ip", "link", "set", "cable", "down")

    def restore(self) -> None:
        """Connect the cable."""
        self._run_inside("ip", "link", "set", "cable", "up")

    def count_backends(self) -> int:
        """Return how many of the server's processes serve a connection of the service."""
        count = "select count(*) from pg_stat_activity where application_name = 'holdfast'"
        return int(self.local.psql(count)[0])

    def stop(self) -> None:
        """Stop the server at once; its namespace and its devices disappear with it."""
        self._server.kill()
        self._server.wait()

    def _run_inside(self, *command: str) -> None:
        self._run("nsenter", f"--target={self._server.pid}", "--net", *command)

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, env={"PATH": PATH})


@contextmanager
def run_remote_postgres(folder: Path) -> Iterator[RemotePostgres]:
    """Run a PostgreSQL behind a cable for as long as the block runs."""
    server = RemotePostgres(folder)
    try:
        yield server
    finally:
        server.stop()
