"""The demo: it sells out, prints the figures of its database, and leaves nothing behind.

A run takes three seconds, in which holds of one second can expire and be sold again, and three
more to start and stop a PostgreSQL and a service.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from service.settings import resource
from service.temporary import remove_abandoned_folders
from tests.support.commands import error_line, holdfast
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS, wait_until

DEMO = ("demo", "--seconds", "3")
TOTAL = 171
LINE = re.compile(
    r" *\d+ s: (\d+) available, (\d+) reserved, (\d+) purchased, (\d+) refused, \d+ tickets/s"
)


def find_processes(folder: Path) -> set[int]:
    """Return the pids of the processes with a folder in their arguments or environment."""
    pids = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if os.fsencode(folder) in text:
                pids.add(int(process.name))
    return pids


def find_folder(output: str) -> Path:
    """Return the temporary folder that a demo has printed."""
    folder = re.search(r"a service in (/tmp/holdfast-demo-[\w-]+)", output)
    assert folder, output
    return Path(folder[1])


def begin_session() -> None:
    """Start a program as a shell does: with its terminal, and with Ctrl-C not ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.isatty(1):
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)


@contextmanager
def run_demo(output: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a long demo on a terminal or a pipe; kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "demo", "--seconds", "60"],
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100"},
        stdin=output if os.isatty(output) else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=begin_session,
    )
    os.close(output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_until(source: int, pattern: bytes) -> str:
    """Read until a pattern matches; without a pattern, to the end."""
    output, deadline = b"", time.monotonic() + 3 * WAIT_SECONDS  # a start and a sale
    while not (pattern and re.search(pattern, output)):
        assert time.monotonic() < deadline, output
        if select.select([source], [], [], 0.1)[0]:
            try:
                chunk = os.read(source, 65536)
            except OSError:  # the end of a terminal
                chunk = b""
            if not chunk:
                break
            output += chunk
    return output.decode()


def test_the_demo_sells_each_ticket_once_and_prints_the_right_figures(
    database: Database, tmp_path: Path
) -> None:
    picture = tmp_path / "demo.svg"
    # It ignores the settings of another service.
    done = holdfast(
        *DEMO, "--picture", str(picture), seconds=120, database_url=database.dsn, workers=2
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [[int(number) for number in match] for match in LINE.findall(done.stdout)]
    assert len(lines) >= 3
    assert {available + held + paid for available, held, paid, _ in lines} == {TOTAL}
    assert lines == sorted(lines, key=lambda line: line[3]), "the number of refusals only grows"
    output = done.stdout.replace(",", "")
    rows = re.findall(r"^ (\w+ ?\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) *$", output, re.M)
    assert [row[0] for row in rows] == ["Opening night", "Matinee", "Last night"]
    for _, tickets, available, held, paid, _ in rows:
        assert (paid, available, held) == (tickets, "0", "0")
    refusals = sum(int(row[5]) for row in rows)
    assert f"Sold exactly {TOTAL} of {TOTAL} tickets; {refusals} requests refused." in output
    assert refusals > 0
    (resold,) = re.findall(r"^(\d+) tickets expired and (\d+) were cancelled", output, re.M)
    assert min(int(number) for number in resold) > 0
    assert "3 event(s): all add up" in output
    assert "Sold" in picture.read_text()
    assert "@font-face" not in picture.read_text()
    assert database.psql("select count(*) from events") == ["0"]
    assert find_processes(find_folder(output)) == set()
    assert not find_folder(output).exists()


def test_the_demo_fails_when_the_ledger_is_wrong(tmp_path: Path) -> None:
    shutil.copytree(resource("sql"), tmp_path, dirs_exist_ok=True)
    statement = tmp_path / "cancel_tickets.sql"
    correct = "changed_events.ticket_count as cancelled,"
    wrong = "changed_events.ticket_count + 1 as cancelled,"
    assert correct in statement.read_text()
    statement.write_text(statement.read_text().replace(correct, wrong))
    done = holdfast(*DEMO, seconds=120, sql_dir=tmp_path)
    assert done.returncode == 1
    assert "3 event(s): 3 do not add up" in done.stdout
    assert "the audit found errors" in done.stdout
    pattern = r"tickets cancelled: (\d+) by the responses, (\d+) by the ledger"
    ((responses, ledger),) = re.findall(pattern, done.stdout)
    assert int(responses) < int(ledger)
    assert "Sold exactly" not in done.stdout
    assert not find_folder(done.stdout).exists()


def test_the_demo_prints_one_line_when_it_cannot_start(tmp_path: Path) -> None:
    done = holdfast("demo", sql_dir=tmp_path)
    assert f"the demo's service does not start: {tmp_path} has no .sql files" in error_line(done)
    assert not find_folder(done.stdout).exists()


def test_ctrl_c_in_a_terminal_stops_the_demo_and_leaves_nothing_behind() -> None:
    terminal, inside = pty.openpty()
    with run_demo(inside) as process:
        output = read_until(terminal, rb"box office: \S+/\r?\n")
        (address,) = re.findall(r"box office: (\S+/)", output)
        assert "<title>Box office</title>" in httpx2.get(address).text
        # A table is drawn over the previous one: "cursor up, erase line".
        output += read_until(terminal, rb"(?s)\x1b\[1A\x1b\[2K.*Opening night.*Last night")
        os.write(terminal, b"\x03\x03")
        output += read_until(terminal, b"")
        assert process.wait(WAIT_SECONDS) == 130
    os.close(terminal)
    assert "holdfast: stopped" in output
    assert "Traceback" not in output
    assert find_processes(find_folder(output)) == set()
    assert not find_folder(output).exists()


def test_the_picture_in_the_readme_has_the_figures_of_its_text() -> None:
    text = (ROOT / "README.md").read_text()
    (description,) = re.findall(r"!\[(.*)\]\(docs/images/demo\.svg\)", text)
    picture = (ROOT / "docs/images/demo.svg").read_text()
    figures = re.findall(r"\d[\d,]*\d", description)
    assert len(figures) == 4
    assert [figure for figure in figures if figure not in picture] == []


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGKILL])
def test_the_servers_stop_when_the_demo_is_killed(stop_signal: signal.Signals) -> None:
    source, output = os.pipe()
    with run_demo(output) as process:
        folder = find_folder(read_until(source, b"tickets/s"))
        assert len(find_processes(folder)) >= 2
        process.send_signal(stop_signal)
        process.wait(WAIT_SECONDS)
        wait_until(lambda: find_processes(folder) == set())
    os.close(source)
    assert folder.exists() == (stop_signal == signal.SIGKILL)

    def is_gone_after_a_start() -> bool:
        remove_abandoned_folders()
        return not folder.exists()

    wait_until(is_gone_after_a_start)  # when the kernel has closed the files of the last process
