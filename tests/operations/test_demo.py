"""The demo: it sells out, its figures are those of its own books, and it leaves nothing behind.

A run takes three seconds, which holds of a second need to run out and be sold again, and three
more to start a PostgreSQL and a service and to stop them.
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

import pytest

from service.settings import resource
from tests.support.commands import holdfast, refused
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS, wait_until

DEMO = ("demo", "--seconds", "3")
TOTAL = 171
LINE = re.compile(
    r" *\d+ s: (\d+) available, (\d+) reserved, (\d+) purchased, (\d+) refused, \d+ tickets/s"
)


def processes(folder: Path) -> set[int]:
    """Return the pids of all that runs in a folder: the service by its setting, PostgreSQL."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if os.fsencode(folder) in told:
                found.add(int(process.name))
    return found


def folder_in(text: str) -> Path:
    """Return the folder that a demo has said it lives in."""
    found = re.search(r"all of it in (/tmp/holdfast-demo-\w+)", text)
    assert found, text
    return Path(found[1])


@contextmanager
def selling(output: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a demo that would last, in a terminal or a pipe of its own, for the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "demo", "--seconds", "60"],
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100"},
        stdin=output if os.isatty(output) else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=lambda: os.isatty(1) and fcntl.ioctl(1, termios.TIOCSCTTY, 0),
    )
    os.close(output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_until(source: int, what: bytes) -> str:
    """Read until something comes, or with nothing to wait for to the end."""
    seen, deadline = b"", time.monotonic() + 3 * WAIT_SECONDS  # a start and a sale
    while not (what and re.search(what, seen)):
        assert time.monotonic() < deadline, seen
        if select.select([source], [], [], 0.1)[0]:
            try:
                piece = os.read(source, 65536)
            except OSError:  # a terminal's end
                piece = b""
            if not piece:
                break
            seen += piece
    return seen.decode()


def test_it_sells_each_ticket_once_and_tells_the_figures_of_its_books(
    database: Database, tmp_path: Path
) -> None:
    picture = tmp_path / "demo.svg"
    # Settings of another service are none of its business.
    done = holdfast(
        *DEMO, "--picture", str(picture), seconds=120, database_url=database.dsn, workers=2
    )
    assert (done.returncode, done.stderr) == (0, "")
    looks = [[int(one) for one in told] for told in LINE.findall(done.stdout)]
    assert len(looks) >= 3
    assert {available + held + paid for available, held, paid, _ in looks} == {TOTAL}
    assert looks == sorted(looks, key=lambda look: look[3]), "who was refused stays refused"
    told = done.stdout.replace(",", "")
    rows = re.findall(r"^ (\w+ ?\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) *$", told, re.M)
    assert [row[0] for row in rows] == ["Opening night", "Matinee", "Last night"]
    for _, tickets, available, held, paid, _ in rows:
        assert (paid, available, held) == (tickets, "0", "0")
    refusals = sum(int(row[5]) for row in rows)
    assert f"Sold exactly {TOTAL} of {TOTAL} tickets; {refusals} requests refused." in told
    assert refusals > 0
    (again,) = re.findall(r"^(\d+) holds ran out (\d+) given back: all sold again", told, re.M)
    assert min(int(number) for number in again) > 0
    assert "3 event(s): all add up" in told
    assert "Sold" in picture.read_text()
    assert "@font-face" not in picture.read_text()
    assert database.psql("select count(*) from events") == ["0"]
    assert processes(folder_in(told)) == set()
    assert not folder_in(told).exists()


def test_it_tells_when_the_books_do_not_add_up(tmp_path: Path) -> None:
    shutil.copytree(resource("sql"), tmp_path, dirs_exist_ok=True)
    cancel = tmp_path / "cancel_reservations.sql"
    right = "'user_cancelled', freed.tickets,"
    assert right in cancel.read_text()
    cancel.write_text(cancel.read_text().replace(right, right.replace("tickets", "tickets + 1")))
    done = holdfast(*DEMO, seconds=120, sql_dir=tmp_path)
    assert done.returncode == 1
    assert "3 event(s): 3 do not add up" in done.stdout
    assert "the audit has found what does not add up" in done.stdout
    (told,) = re.findall(r"told of (\d+) tickets cancelled, the ledger has (\d+)", done.stdout)
    assert int(told[0]) < int(told[1])
    assert "Sold exactly" not in done.stdout
    assert not folder_in(done.stdout).exists()


def test_it_says_in_a_line_when_it_cannot_start(tmp_path: Path) -> None:
    done = holdfast("demo", sql_dir=tmp_path)
    assert f"the demo's service does not start: {tmp_path} has no .sql files" in refused(done)
    assert not folder_in(done.stdout).exists()


def test_in_a_terminal_the_table_lives_and_ctrl_c_leaves_nothing_behind() -> None:
    terminal, inside = pty.openpty()
    with selling(inside) as process:
        # A table that counts, drawn over the one before it: "up a line, erase it".
        seen = read_until(terminal, rb"(?s)\x1b\[1A\x1b\[2K.*Opening night.*Last night")
        os.write(terminal, b"\x03\x03")
        seen += read_until(terminal, b"")
        assert process.wait(WAIT_SECONDS) == 130
    os.close(terminal)
    assert "holdfast: stopped" in seen
    assert "Traceback" not in seen
    assert processes(folder_in(seen)) == set()
    assert not folder_in(seen).exists()


def test_the_picture_in_the_readme_shows_the_figures_that_its_text_tells() -> None:
    root = ROOT
    (told,) = re.findall(r"!\[(.*)\]\(docs/images/demo\.svg\)", (root / "README.md").read_text())
    drawn = (root / "docs/images/demo.svg").read_text()
    figures = re.findall(r"\d[\d,]*\d", told)
    assert len(figures) == 4
    assert [figure for figure in figures if figure not in drawn] == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_takes_its_servers_with_it(how: signal.Signals) -> None:
    source, output = os.pipe()
    with selling(output) as process:
        folder = folder_in(read_until(source, b"tickets/s"))
        assert len(processes(folder)) >= 2
        process.send_signal(how)
        process.wait(WAIT_SECONDS)
        wait_until(lambda: processes(folder) == set())
    os.close(source)
    assert folder.exists() == (how == signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
