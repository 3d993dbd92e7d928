"""Every command in the documents runs, and shows what its page says that it shows."""

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
from tests.support.documents import WRITES, Reader, blocks
from tests.support.paths import ROOT
from tests.support.waiting import wait_until


@contextmanager
def tutorial(reader: Reader) -> Iterator[None]:
    """It is installed already; a test neither waits a minute nor starts curl 300 times."""
    reader.left_out = ("python3 -m venv", ". .venv")
    if not WRITES:
        reader.replaced |= {"HOLD_SECONDS=60": "HOLD_SECONDS=4", "sleep 60": "sleep 4"}
        reader.replaced |= {"seq 300": "seq 120", "202 409": "22 409"}
    yield


@contextmanager
def readme(reader: Reader) -> Iterator[None]:
    """Its two first commands are what .ci/run and the tutorial are; here is its sale."""
    reader.left_out = ("python3 -m venv",)
    reader.blurs = {r'"version":\d+': '"version":<number>'}  # how many transactions it took
    if not WRITES:
        reader.replaced |= {"seq 2000": "seq 150", "1901 409": "51 409"}
    yield


@contextmanager
def look_at_a_sale(reader: Reader) -> Iterator[None]:
    """The page's sale of twelve tickets, with its ids."""
    tickets: dict[str, list[str]] = {}

    @contextmanager
    def sale() -> Iterator[None]:
        with reader.client() as client:
            event = client.create_event(tickets=12)
            for user in ("ann", "bob"):
                tickets[user] = client.hold(event, 2, user)
            for user in ("ann", "bob"):
                for ticket in tickets[user]:
                    client.pay(ticket, user)
            for user, quantity in (("cai", 2), ("dee", 3), ("eve", 3)):
                tickets[user] = client.hold(event, quantity, user)
        reader.replaced |= {
            "01a2022c-bfea-7d62-877d-8841c7821fff": event,
            "01a2022c-c085-7299-a2e3-fd2e93ced43d": tickets["cai"][0],
            "01a2022c-d1e0-7a01-b0c2-6ad0e92b6ad1": tickets["dee"][0],
        }
        yield

    @contextmanager
    def locked() -> Iterator[None]:
        """Somebody has changed the event and not committed, and a buyer asks on."""
        dsn = reader.database.dsn
        (event,) = reader.database.psql("select id from events")
        with psycopg.connect(dsn, application_name="psql") as rival, reader.client() as client:
            rival.execute(f"update events set name = name where id = '{event}'".encode())
            is_over = Event()

            def ask() -> None:
                while not is_over.is_set():
                    client.reserve(event)

            asking = Thread(target=ask)
            asking.start()
            reader.database.wait_until_blocked()
            yield
            is_over.set()
            rival.rollback()
            asking.join()

    @contextmanager
    def run_out() -> Iterator[None]:
        for ticket in tickets["cai"]:
            reader.database.lapse(ticket)
        expired = "select count(*) from ticket_allocations where status = 'expired'"
        wait_until(lambda: reader.database.psql(expired) == ["2"])
        yield

    reader.blurs = {r"(?<!\.)\b\d{3,7}\b(?= *(\||\n))": "<pid>"}
    reader.replaced |= {"date_trunc('minute'": "date_trunc('century'"}  # one row, not two
    reader.meanwhile = {
        "1. How many are left?": sale,
        "4. Which lock is waited for?": locked,
        "5. What is the service doing?": locked,
        "6. Why was this refused?": run_out,
    }
    yield


@contextmanager
def monitor(reader: Reader) -> Iterator[None]:
    """Prometheus itself is run by tests/operations/test_monitoring.py."""
    reader.left_out = ("prometheus",)
    yield


@contextmanager
def back_up_and_restore(reader: Reader) -> Iterator[None]:
    """Two buy before the dump, two after it, one of them after the moment to go back to."""
    backups = reader.folder / "backups"
    for folder in (backups, backups / "wal"):
        folder.mkdir()
        find_programs().give_away(folder)
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

    reader.replaced |= {"/var/backups/holdfast": str(backups), "8001": str(unused())}
    # Right after the copy the receiver may be behind, as the page says.
    asked = 'holdfast psql -c "select application_name'
    behind = "select flush_lsn < pg_current_wal_lsn() - 1000000 from pg_stat_replication"
    wait = f'until holdfast psql -Atc "{behind}" | grep -q f; do sleep 0.1; done'
    reader.replaced |= {asked: f"{wait}; {asked}"}
    reader.meanwhile = {
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
    """What the page writes stays in the test's folder."""
    reader.replaced |= {"/tmp/move": str(reader.folder / "move")}  # noqa: S108
    yield


def unused() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def as_it_comes(_: Reader) -> AbstractContextManager[None]:
    """A service on an empty database is all that the page needs."""
    return nullcontext()


PAGES: dict[str, Callable[[Reader], AbstractContextManager[None]]] = {
    "README.md": readme,
    "docs/tutorial.md": tutorial,
    "docs/explanation/what-the-ledger-proves.md": as_it_comes,
    "docs/how-to/back-up-and-restore.md": back_up_and_restore,
    "docs/how-to/give-the-service-a-role.md": as_it_comes,
    "docs/how-to/high-availability.md": as_it_comes,
    "docs/how-to/look-at-a-sale-from-psql.md": look_at_a_sale,
    "docs/how-to/migrate.md": as_it_comes,
    "docs/how-to/monitor.md": monitor,
    "docs/how-to/move-from-another-system.md": move,
}

NOT_RUN = {
    "docs/explanation/guarantees.md": "the slow tests, from within a test",
    "docs/how-to/change-the-sql.md": "it changes the clone, and runs tests from within a test",
    "docs/how-to/deploy.md": "users and services of the machine itself, and Docker",
    "docs/how-to/generate-a-client.md": "tests/docs/test_generated_clients.py runs it",
    "docs/reference/command-line.md": "test_demo.py and test_command_line.py run it",
    "docs/examples/README.md": "test_checkout_command.py and …_in_a_browser.py run it",
}
"""Pages whose commands are run by other tests, or by none, and why."""


@pytest.mark.skipif(which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize(
    "page",
    [
        # Three servers, two of them restored: the longest by far.
        pytest.param(page, marks=pytest.mark.slow) if "back-up" in page else page
        for page in PAGES
    ],
)
def test_every_command_of_a_page_runs_and_shows_what_the_page_shows(
    page: str, folder: Path, unused_port: int
) -> None:
    reader = Reader(ROOT / page, folder, unused_port)
    with PAGES[page](reader):
        reader.follow()


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_lost_between_two_blocks_of_a_page(page: str) -> None:
    """A fence in the midst of a line is none, and what follows goes into the block before it."""
    text = (ROOT / page).read_text()
    assert re.findall(r"^.+```.*$", text, re.MULTILINE) == []
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_page_with_commands_is_forgotten() -> None:
    every = {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")}
    assert {str(page.relative_to(ROOT)) for page in every if blocks(page)} == {*PAGES, *NOT_RUN}


@pytest.mark.slow
def test_the_tutorial_begins_with_nothing_but_a_clone(folder: Path, unused_port: int) -> None:
    """Whole: it installs from the package index, and waits for a hold to run out."""
    root = folder / "holdfast"
    subprocess.run(["/usr/bin/git", "clone", "-q", ROOT, root], check=True)
    page = root / "docs" / "tutorial.md"
    Reader(page, folder, unused_port, root, root / ".venv" / "bin").follow()


@pytest.mark.skipif(WRITES, reason="nothing is compared while the pages are written")
@pytest.mark.parametrize(
    ("shown", "showed", "failed", "is_right"),
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
def test_a_page_is_held_to_what_it_shows(
    tmp_path: Path, shown: str, showed: str, failed: int, is_right: bool
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```sh\nask\n```\n\n```\n{shown}\n```\n")
    (block,) = blocks(page)
    with nullcontext() if is_right else pytest.raises(AssertionError):
        Reader(page, tmp_path, 1).compare(block, showed, failed)
