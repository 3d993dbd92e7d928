"""Runs the commands of a page in order, in one terminal, as a reader types them.

A block marked ``sh`` is run in the root of the repository. An unmarked block right after it is
its expected output: ids, times and durations may differ, and ``…`` stands for any text, or on a
line of its own for any lines. A block must succeed unless it shows an error. One that ends in
``holdfast serve`` runs in a terminal of its own until the next such block or the end of the page;
then Ctrl-C ends it.
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

# How long a block may take. It is a bound, not a measure.
BLOCK_SECONDS = 120
# The data directory of the service in the pages.
PAGE_DATA_DIR = "/home/you/.local/state/holdfast"
# Whether output that differs from a page is written into the page.
REWRITES_PAGES = bool(os.environ.get("HOLDFAST_TEST_WRITES_DOCUMENTS"))

_BLOCK = re.compile(
    r"^```sh\n(?P<command>.*?)^```\n(?:\n```\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL
)
_SERVES = re.compile(r"(^|[/ ])holdfast serve$")
_ERROR = re.compile(r"^holdfast: |ERROR: ", re.MULTILINE)
# What differs from run to run, and its placeholder.
_MASKS = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<id>",
    r"\b\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT": "<time>",
    # Dates of events are kept: they are part of the commands.
    r"\b(?!2030)\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d)?": "<time>",
    r"-?\b\d\d:\d\d:\d\d(\.\d+)?\b": "<duration>",
    r"\b\d+(\.\d+)? ms\b": "<duration>",
    r"=\d+(\.\d+)?(\.\.\d+\.\d+)?": "=<number>",
    r"\b(?=[a-f]*\d)[0-9a-f]{10}\b": "<actor>",
    # The width of a table depends on its content.
    r"-{3,}": "---",
    r" {2,}": " ",
    r" +\n": "\n",
}


@dataclass(frozen=True)
class Block:
    """A block of commands.

    Attributes:
        command: the commands.
        output: the expected output; None if the page shows none, then any output passes.
        heading: the second-level heading above it.
    """

    command: str
    output: str | None
    heading: str

    @property
    def serves(self) -> bool:
        """Whether it starts a service, which runs while further blocks are run."""
        return bool(_SERVES.search(self.command.rstrip()))


def blocks(page: Path) -> list[Block]:
    """Return the blocks of commands of a page, in order."""
    text = page.read_text()
    return [
        Block(match["command"], match["output"], _last_heading(text[: match.start()]))
        for match in _BLOCK.finditer(text)
    ]


def _last_heading(text: str) -> str:
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    return str(headings[-1]) if headings else ""


class Terminal:
    """A shell that keeps its variables between blocks."""

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
        """Run a block; return its output, and the exit code of a command that failed, or 0."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        # A failure is recorded, and the shell goes on.
        self._bash.stdin.write(
            f"failed=0; trap 'failed=$?' ERR\n{{ {command}\n}} </dev/null\n"
            f"trap - ERR; printf '\\n{self._END} %s\\n' $failed\n"
        )
        self._bash.stdin.flush()
        lines: list[str] = []
        timeout = threading.Timer(BLOCK_SECONDS, self.close)
        timeout.start()
        try:
            for line in self._bash.stdout:
                if line.startswith(self._END):
                    return "".join(lines).removesuffix("\n"), int(line.split()[-1])
                lines.append(line)
        finally:
            timeout.cancel()
        raise AssertionError(f"not finished after {BLOCK_SECONDS} s:\n{command}{''.join(lines)}")

    def close(self) -> None:
        """End the shell and all its child processes."""
        if self._bash.poll() is None:
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()


@dataclass
class Reader:
    """A reader who runs the commands of a page.

    Attributes:
        page: the page.
        folder: for the data of the service, and for the files that the page writes.
        port: of the service.
        root: of the repository.
        commands: the folder of ``holdfast`` and ``yoyo``.
        replacements: texts of the page, and what they are in this run.
        contexts: by heading, a context manager that is open while the blocks below it are run.
        masks: patterns of what else differs between runs of this page, and their placeholders.
        skipped: beginnings of blocks that are not run.
    """

    page: Path
    folder: Path
    port: int
    root: Path = ROOT
    commands: Path = Path(sys.executable).parent
    replacements: dict[str, str] = field(default_factory=dict)
    contexts: dict[str, Callable[[], AbstractContextManager[object]]] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.replacements = {
            "localhost:8000": f"localhost:{self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            PAGE_DATA_DIR: str(self.folder),
            **self.replacements,
        }
        self.environment = {
            "PATH": f"{self._programs()}:{self.commands}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "DATA_DIR": str(self.folder),
            "PORT": str(self.port),
            "LC_ALL": "C.UTF-8",
        }
        self._new_text = self.page.read_text()

    @property
    def database(self) -> Database:
        """The database of the running service."""
        return Database(f"postgresql://holdfast@/holdfast?host={self.folder}/socket")

    def client(self) -> Client:
        """Return a client of the running service."""
        return Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WAIT_SECONDS)

    def follow(self) -> None:
        """Run every block of the page and compare its output."""
        terminal = Terminal(self.root, self.environment)
        try:
            with self._service() as serve:
                for block in self._blocks():
                    with self.contexts.get(block.heading, nullcontext)():
                        if block.serves:
                            self.compare(block, serve(self.localize(block.command)), 0)
                        else:
                            self.compare(block, *terminal.run(self.localize(block.command)))
        finally:
            terminal.close()
        if REWRITES_PAGES:
            self.page.write_text(self._new_text)

    def compare(self, block: Block, output: str, exit_code: int) -> None:
        """Assert that a block has the output that the page shows, and fails only if it says so.

        With REWRITES_PAGES, note the new output for the page instead.
        """
        must_fail = block.output is not None and _ERROR.search(block.output) is not None
        message = f"{self.localize(block.command)}ended with {exit_code}: {output}"
        assert bool(exit_code) == must_fail or REWRITES_PAGES, message
        if block.output is None:
            return
        expected = self.localize(block.output)
        if self._matches(expected, output):
            return
        if REWRITES_PAGES:
            for page_text, local_text in reversed(self.replacements.items()):
                output = output.replace(local_text, page_text)
            output = output.rstrip("\n") + "\n"
            start = f"```sh\n{block.command}```\n\n```\n"
            old, new = f"{start}{block.output}```", f"{start}{output}```"
            self._new_text = self._new_text.replace(old, new, 1)
            return
        expected_lines, lines = (self._mask(text).splitlines() for text in (expected, output))
        raise AssertionError("\n".join([block.command, *difflib.ndiff(expected_lines, lines)]))

    def localize(self, text: str) -> str:
        """Return a text of the page with this run's addresses and paths."""
        for page_text, local_text in self.replacements.items():
            text = text.replace(page_text, local_text)
        return text

    def _blocks(self) -> list[Block]:
        return [block for block in blocks(self.page) if not block.command.startswith(self.skipped)]

    def _matches(self, expected: str, output: str) -> bool:
        pattern = re.escape(self._mask(expected)).replace("\\\n", "\n")
        pattern = re.sub(r"^…\n", r"(.*\n)*", pattern, flags=re.MULTILINE)
        return re.fullmatch(pattern.replace("…", ".*"), self._mask(output)) is not None

    def _mask(self, text: str) -> str:
        text = text.rstrip("\n") + "\n"
        for pattern, placeholder in (self.masks | _MASKS).items():
            text = re.sub(pattern, placeholder, text)
        return text

    @contextmanager
    def _service(self) -> Iterator[Callable[[str], str]]:
        """Yield a function that starts a service; if no block of the page does, run one."""
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
            # Without the log of the first requests.
            lines = output.read_text().splitlines(keepends=True)
            return "".join(line for line in lines if " INFO " not in line)

        try:
            yield serve
        finally:
            stop()

    def _programs(self) -> Path:
        """Return a folder with PostgreSQL's programs; those that write files run as its account."""
        programs = find_programs().make_accessible(self.folder)
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        account = programs.account
        for program in programs.folder.iterdir():
            if account is None or not program.name.startswith(("pg_ctl", "pg_base", "pg_receive")):
                (folder / program.name).symlink_to(program)
                continue
            account_options = f"--reuid={account.pw_uid} --regid={account.pw_gid} --clear-groups"
            (folder / program.name).write_text(
                f'#!/bin/sh\ncd / && exec setpriv {account_options} {program} "$@"\n'
            )
            (folder / program.name).chmod(0o755)
        return folder
