"""Every command in the documents runs, and prints what its page shows."""

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from shutil import which
from threading import Event, Thread

import psycopg
import pytest

from service.embedded.programs import find_programs
from tests.support.documents import REWRITES_PAGES, Reader, blocks
from tests.support.paths import ROOT
from tests.support.tools import needs
from tests.support.waiting import wait_until


@contextmanager
def tutorial(reader: Reader) -> Iterator[None]:
    """Skip the installation, which is done, and shorten the waiting and the loop of curl."""
    reader.skipped = ("python3 -m venv", ". .venv")
    if not REWRITES_PAGES:
        reader.replacements |= {"HOLD_SECONDS=60": "HOLD_SECONDS=4", "sleep 60": "sleep 4"}
        reader.replacements |= {"seq 300": "seq 120", "202 409": "22 409"}
    yield


@contextmanager
def readme(reader: Reader) -> Iterator[None]:
    """Run the sale of the README; .ci/run and the tutorial cover its first two commands."""
    reader.skipped = ("python3 -m venv",)
    if not REWRITES_PAGES:
        reader.replacements |= {"seq 2000": "seq 150", "1901 409": "51 409"}
    yield


@contextmanager
def look_at_a_sale(reader: Reader) -> Iterator[None]:
    """Lock the event where the page says that somebody does, and wait for the sweeper."""

    @contextmanager
    def locked() -> Iterator[None]:
        """Hold a row lock by an open transaction while a buyer keeps trying to reserve."""
        dsn = reader.database.dsn
        (event,) = reader.database.psql("select id from events")
        with psycopg.connect(dsn, application_name="psql") as rival, reader.client() as client:
            rival.execute(b"update events set name = name")
            done = Event()

            def reserve() -> None:
                while not done.is_set():
                    client.reserve(event, 9)

            buyer = Thread(target=reserve)
            buyer.start()
            reader.database.wait_until_blocked()
            yield
            done.set()
            rival.rollback()
            buyer.join()

    @contextmanager
    def swept() -> Iterator[None]:
        count = "select count(*) from ticket_allocations where status = 'expired'"
        wait_until(lambda: reader.database.psql(count) == ["2"])
        yield

    reader.masks = {r"(?<!\.)\b\d{3,7}\b(?= *(\||\n))": "<pid>"}
    reader.replacements |= {"date_trunc('minute'": "date_trunc('century'"}  # one row, not two
    reader.contexts = {
        "4. Which lock is waited for?": locked,
        "5. What is the service doing?": locked,
        "7. What has happened?": swept,
    }
    yield


@contextmanager
def monitor(reader: Reader) -> Iterator[None]:
    """Skip Prometheus, which tests/operations/test_monitoring.py runs."""
    reader.skipped = ("prometheus",)
    yield


@contextmanager
def back_up_and_restore(reader: Reader) -> Iterator[None]:
    """Sell before the dump, after it, and before and after the moment to restore to."""
    backups = reader.folder / "backups"
    for folder in (backups, backups / "wal"):
        folder.mkdir()
        find_programs().chown(folder)
    orders = {"order-1": ("alice", 2), "order-2": ("bob", 1), "order-3": ("carol", 3)}
    orders["order-4"] = ("dora", 1)
    lines = [f"{key},{user},{quantity}\n" for key, (user, quantity) in orders.items()]
    (backups / "paid.csv").write_text("".join(lines))

    def buy(key: str, *, pays: bool = True) -> None:
        with reader.client() as client:
            (event,) = reader.database.psql("select id from events")
            user, quantity = orders[key]
            ticket = client.reserve(event, quantity, user, key).json()[0]
            if pays:
                client.pay_reservation(ticket["reservationId"], user)

    @contextmanager
    def before_the_dump() -> Iterator[None]:
        with reader.client() as client:
            client.create_event(tickets=100)
        buy("order-1")
        yield

    @contextmanager
    def after_the_dump() -> Iterator[None]:
        buy("order-2")
        yield

    @contextmanager
    def around_the_moment() -> Iterator[None]:
        buy("order-3", pays=False)
        yield
        buy("order-3")
        buy("order-4")

    reader.replacements |= {
        "/var/backups/holdfast": str(backups),
        "8001": str(unused_port_number()),
    }
    # Right after the copy the receiver may be behind, as the page says.
    query = 'holdfast psql -c "select application_name'
    behind = "select flush_lsn < pg_current_wal_lsn() - 1000000 from pg_stat_replication"
    wait = f'until holdfast psql -Atc "{behind}" | grep -q f; do sleep 0.1; done'
    reader.replacements |= {query: f"{wait}; {query}"}
    reader.contexts = {
        "Dump": before_the_dump,
        "Restore the dump": after_the_dump,
        "Restore to a moment": around_the_moment,
    }
    try:
        yield
    finally:
        restored = backups / "restored"
        if (restored / "postmaster.pid").exists():
            stop = (f"--pgdata={restored}", "--mode=immediate", "stop")
            subprocess.run([str(reader.folder / "bin" / "pg_ctl"), *stop], check=True)


@contextmanager
def move(reader: Reader) -> Iterator[None]:
    """Write to the test's folder instead of /tmp."""
    reader.replacements |= {"/tmp/move": str(reader.folder / "move")}  # noqa: S108
    yield


def unused_port_number() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def no_preparation(_: Reader) -> AbstractContextManager[None]:
    """Prepare nothing: the page needs only a service on an empty database."""
    return nullcontext()


PAGES: dict[str, Callable[[Reader], AbstractContextManager[None]]] = {
    "README.md": readme,
    "docs/tutorial.md": tutorial,
    "docs/explanation/what-the-ledger-proves.md": no_preparation,
    "docs/how-to/back-up-and-restore.md": back_up_and_restore,
    "docs/how-to/give-the-service-a-role.md": no_preparation,
    "docs/how-to/high-availability.md": no_preparation,
    "docs/how-to/look-at-a-sale-from-psql.md": look_at_a_sale,
    "docs/how-to/migrate.md": no_preparation,
    "docs/how-to/monitor.md": monitor,
    "docs/how-to/move-from-another-system.md": move,
    "docs/how-to/run-an-on-sale.md": no_preparation,
}

# Pages whose commands are run by other tests, or by none, and why.
RUN_ELSEWHERE = {
    "docs/contributing.md": "installs the tests, as .ci/run does",
    "docs/explanation/guarantees.md": "runs the slow tests, which a test should not",
    "docs/how-to/change-the-sql.md": "changes the clone, and runs tests",
    "docs/how-to/deploy.md": "changes users and services of the machine, and uses Docker",
    "docs/how-to/generate-a-client.md": "tests/docs/test_generated_clients.py runs it",
    "docs/reference/command-line.md": "test_demo.py and test_command_line.py run it",
    "docs/examples/README.md": "test_checkout_command.py and …_in_a_browser.py run it",
}


@needs(which("curl"), "curl is missing: apt-get install curl")
@pytest.mark.parametrize(
    "page",
    [
        # This page takes by far the longest: it restores two servers.
        pytest.param(page, marks=pytest.mark.slow) if "back-up" in page else page
        for page in PAGES
    ],
)
def test_the_commands_of_a_page_print_what_the_page_shows(
    page: str, folder: Path, unused_port: int
) -> None:
    reader = Reader(ROOT / page, folder, unused_port)
    with PAGES[page](reader):
        reader.follow()


@pytest.mark.parametrize("page", PAGES)
def test_the_fences_and_numbers_of_a_page_are_well_formed(page: str) -> None:
    """A fence within a line does not close a block, which then contains the text after it."""
    text = (ROOT / page).read_text()
    assert re.findall(r"^.+```.*$", text, re.MULTILINE) == []
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_page_with_commands_is_run_or_listed() -> None:
    pages = {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")}
    with_commands = {str(page.relative_to(ROOT)) for page in pages if blocks(page)}
    assert with_commands == {*PAGES, *RUN_ELSEWHERE}


@pytest.mark.slow
def test_the_tutorial_works_in_a_fresh_clone(folder: Path, unused_port: int) -> None:
    """Unabridged: it installs from the package index and waits for a hold to expire."""
    root = folder / "holdfast"
    subprocess.run(["/usr/bin/git", "clone", "-q", ROOT, root], check=True)
    page = root / "docs" / "tutorial.md"
    Reader(page, folder, unused_port, root, root / ".venv" / "bin").follow()


@pytest.mark.skipif(REWRITES_PAGES, reason="nothing is compared while the pages are written")
@pytest.mark.parametrize(
    ("expected", "printed", "failed", "matches"),
    [
        ("7 left", "7 left", 0, True),
        ("7 left", "8 left", 0, False),
        ("7 left", "7 left\nand more", 0, False),
        ("7 left", "7 left", 1, False),
        ("7 left\n…", "7 left\nand\nmore", 0, True),
        ("…\n7 left", "7 left\nand more", 0, False),
        ("at 2026-11-22T15:03:56.1Z", "at 2027-01-02T03:04:05Z", 0, True),
        ("on 2030-01-01T20:00:00Z", "on 2030-01-02T20:00:00Z", 0, False),
        ("holdfast: no", "holdfast: no", 1, True),
        ("holdfast: no", "holdfast: no", 0, False),
    ],
)
def test_a_difference_from_the_page_is_found(
    tmp_path: Path, expected: str, printed: str, failed: int, matches: bool
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```sh\ncommand\n```\n\n```\n{expected}\n```\n")
    (block,) = blocks(page)
    with nullcontext() if matches else pytest.raises(AssertionError):
        Reader(page, tmp_path, 1).compare(block, printed, failed)
