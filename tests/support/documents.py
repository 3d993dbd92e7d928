"""Documents that run: a page's commands, in their order, in one terminal, as a reader types them.

A block marked ``sh`` is run in the repository's root. A block without a mark right behind it is
what it shows: the ids, times and durations of another run pass, and ``…`` stands for whatever
there is, on a line of its own for any lines. A block must end well, unless it shows an error.
One that ends in ``holdfast serve`` has a terminal of its own; Ctrl-C ends it before the next such
block, and after the last of the page.
"""

import difflib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from service.embedded.programs import find_programs
from tests.support.client import Client, is_live
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.services import run_embedded_service
from tests.support.waiting import WAIT_SECONDS, wait_until

BLOCK_SECONDS = 120
"""How long a block may take. It is a bound, not a measure."""
OWN_STATE = "/home/you/.local/state/holdfast"
"""Where the pages' service has its data."""
REWRITES_PAGES = bool(os.environ.get("HOLDFAST_TEST_WRITES_DOCUMENTS"))
"""Whether what a block shows is written into its page, where the page has it otherwise."""

_BLOCK = re.compile(
    r"^```sh\n(?P<command>.*?)^```\n(?:\n```\n(?P<shown>.*?)^```$)?", re.MULTILINE | re.DOTALL
)
_SERVES = re.compile(r"(^|[/ ])holdfast serve$")
_ERROR = re.compile(r"^holdfast: |ERROR: ", re.MULTILINE)
_BLURRED = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<id>",
    r"\b\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT": "<time>",
    # The dates of events stay: they are in the commands.
    r"\b(?!2030)\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d)?": "<time>",
    r"-?\b\d\d:\d\d:\d\d(\.\d+)?\b": "<duration>",
    r"\b\d+(\.\d+)? ms\b": "<duration>",
    r"=\d+(\.\d+)?(\.\.\d+\.\d+)?": "=<number>",
    r"\b(?=[a-f]*\d)[0-9a-f]{10}\b": "<actor>",
    # The width of a table goes with what is in it.
    r"-{3,}": "---",
    r" {2,}": " ",
    r" +\n": "\n",
}


@dataclass(frozen=True)
class Block:
    """A block of commands."""

    command: str
    shown: str | None
    """What the page shows of it; None: nothing, and any output will do."""
    heading: str
    """The heading of the second level that it stands below."""

    @property
    def serves(self) -> bool:
        """Whether it ends in a service, which goes on while others are run."""
        return bool(_SERVES.search(self.command.rstrip()))


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks of commands, in their order."""
    text = page.read_text()
    return [
        Block(found["command"], found["shown"], _heading(text[: found.start()]))
        for found in _BLOCK.finditer(text)
    ]


def _heading(before: str) -> str:
    headings = re.findall(r"^## (.*)$", before, re.MULTILINE)
    return str(headings[-1]) if headings else ""


class Terminal:
    """A shell that keeps its variables from one block to the next."""

    _END = "--- end of block"

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["/bin/bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=root,
            env=dict(environment),
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[str, int]:
        """Run a block and return what it showed, and the exit code of what failed in it, or 0."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        # A command that fails is remembered, and the shell lives on.
        self._bash.stdin.write(
            f"failed=0; trap 'failed=$?' ERR\n{{ {command}\n}} </dev/null\n"
            f"trap - ERR; printf '\\n{self._END} %s\\n' $failed\n"
        )
        self._bash.stdin.flush()
        lines: list[str] = []
        bound = threading.Timer(BLOCK_SECONDS, self.close)
        bound.start()
        try:
            for line in self._bash.stdout:
                if line.startswith(self._END):
                    return "".join(lines).removesuffix("\n"), int(line.split()[-1])
                lines.append(line)
        finally:
            bound.cancel()
        raise AssertionError(f"it did not come to its end:\n{command}{''.join(lines)}")

    def close(self) -> None:
        """End the shell and what it has left running."""
        if self._bash.poll() is None:
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()


@dataclass
class Reader:
    """Somebody who follows a page on a machine of their own."""

    page: Path
    folder: Path
    """The machine's disk: the service's data, and whatever the page writes."""
    port: int
    root: Path = ROOT
    """The repository."""
    commands: Path = Path(sys.executable).parent
    """Where ``holdfast`` and ``yoyo`` are."""
    replacements: dict[str, str] = field(default_factory=dict)
    """What the page says, and what it is here."""
    contexts: dict[str, Callable[[], AbstractContextManager[object]]] = field(default_factory=dict)
    """By heading, what goes on while the blocks below it are run."""
    masks: dict[str, str] = field(default_factory=dict)
    """What else no two runs of this page have in common: patterns, and what to read instead."""
    skipped: tuple[str, ...] = ()
    """Blocks that begin so are not run."""

    def __post_init__(self) -> None:
        self.replacements = {
            "localhost:8000": f"localhost:{self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            OWN_STATE: str(self.folder),
            **self.replacements,
        }
        self.environment = {
            "PATH": f"{self._programs()}:{self.commands}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "DATA_DIR": str(self.folder),
            "PORT": str(self.port),
            "LC_ALL": "C.UTF-8",
        }
        self._written = self.page.read_text()

    @property
    def database(self) -> Database:
        """The database of the service that runs."""
        return Database(f"postgresql://holdfast@/holdfast?host={self.folder}/socket")

    def client(self) -> Client:
        """Return a client of the service that runs."""
        return Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WAIT_SECONDS)

    def follow(self) -> None:
        """Run every block of the page and compare what it shows."""
        terminal = Terminal(self.root, self.environment)
        try:
            with self._service() as serve:
                for block in self._blocks():
                    with self.contexts.get(block.heading, nullcontext)():
                        if block.serves:
                            self.compare(block, serve(self.here(block.command)), 0)
                        else:
                            self.compare(block, *terminal.run(self.here(block.command)))
        finally:
            terminal.close()
        if REWRITES_PAGES:
            self.page.write_text(self._written)

    def compare(self, block: Block, showed: str, failed: int) -> None:
        """Assert that a block showed what the page says, and failed only if the page says so."""
        shown = block.shown
        must_fail = shown is not None and _ERROR.search(shown) is not None
        says = f"{self.here(block.command)}ended with {failed}: {showed}"
        assert bool(failed) == must_fail or REWRITES_PAGES, says
        if shown is not None and not self._is_shown(self.here(shown), showed):
            if REWRITES_PAGES:
                for there, here in reversed(self.replacements.items()):
                    showed = showed.replace(here, there)
                showed = showed.rstrip("\n") + "\n"
                old = f"```sh\n{block.command}```\n\n```\n"
                self._written = self._written.replace(f"{old}{shown}```", f"{old}{showed}```", 1)
                return
            is_so, said = (self._blurred(text).splitlines() for text in (showed, self.here(shown)))
            raise AssertionError("\n".join([block.command, *difflib.ndiff(said, is_so)]))

    def here(self, text: str) -> str:
        """Return what is written in the page as it is here."""
        for there, here in self.replacements.items():
            text = text.replace(there, here)
        return text

    def _blocks(self) -> list[Block]:
        return [one for one in blocks(self.page) if not one.command.startswith(self.skipped)]

    def _is_shown(self, shown: str, showed: str) -> bool:
        pattern = re.escape(self._blurred(shown)).replace("\\\n", "\n")
        pattern = re.sub(r"^…\n", r"(.*\n)*", pattern, flags=re.MULTILINE)
        return re.fullmatch(pattern.replace("…", ".*"), self._blurred(showed)) is not None

    def _blurred(self, text: str) -> str:
        text = text.rstrip("\n") + "\n"
        for pattern, instead in (self.masks | _BLURRED).items():
            text = re.sub(pattern, instead, text)
        return text

    @contextmanager
    def _service(self) -> Iterator[Callable[[str], str]]:
        """Run a service for a page that starts none; else give what starts the page's own."""
        if not any(block.serves for block in self._blocks()):
            with run_embedded_service(self.folder, self.port):
                yield lambda _: ""
            return
        running: list[subprocess.Popen[str]] = []
        output = self.folder / "serves.log"

        def stop() -> None:
            while running:
                process = running.pop()
                process.send_signal(signal.SIGINT)
                assert process.wait(WAIT_SECONDS * 2) == 0, output.read_text()

        def serve(command: str) -> str:
            stop()
            with output.open("w") as log:
                running.append(
                    subprocess.Popen(
                        ["/bin/bash", "-c", f"exec env {command}"],
                        stdout=log,
                        stderr=log,
                        cwd=self.root,
                        env=self.environment,
                        text=True,
                        start_new_session=True,
                    )
                )
            with self.client() as client:
                wait_until(lambda: is_live(client) or running[0].poll() is not None)
            assert running[0].poll() is None, output.read_text()
            # What it says of the first requests is not what it says at its start.
            lines = output.read_text().splitlines(keepends=True)
            return "".join(line for line in lines if " INFO " not in line)

        try:
            yield serve
        finally:
            stop()

    def _programs(self) -> Path:
        """Return a folder with PostgreSQL's programs; those that write run as its account."""
        programs = find_programs().accessible(self.folder)
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        account = programs.account
        for program in programs.folder.iterdir():
            if account is None or not program.name.startswith(("pg_ctl", "pg_base", "pg_receive")):
                (folder / program.name).symlink_to(program)
                continue
            who = f"--reuid={account.pw_uid} --regid={account.pw_gid} --clear-groups"
            (folder / program.name).write_text(
                f'#!/bin/sh\ncd / && exec setpriv {who} {program} "$@"\n'
            )
            (folder / program.name).chmod(0o755)
        return folder
