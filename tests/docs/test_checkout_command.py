"""Examples: the checkout in Python as a command."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.checkouts import EXAMPLES, UNKNOWN, loaded
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService
from tests.support.waiting import WAIT_SECONDS, at_once


@contextmanager
def command(folder: Path, event: str, url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the checkout as its document says."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "checkout.py"), event, "--url", url, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], keys: str = "") -> str:
    """Return all that a command has said when it has ended."""
    return process.communicate(keys, timeout=WAIT_SECONDS)[0]


def test_a_command_that_is_killed_while_it_waits_for_its_answer_has_its_tickets_the_next_time(
    client: Client, database: Database, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    buy = partial(command, tmp_path, event, service.url, "--quantity", "2")
    with database.holding(event), buy() as process:
        service.wait_until_accepted(1)
        process.kill()
        process.wait()
    service.wait_until_accepted(0)
    assert client.event(event)["reservedTickets"] == 2
    with buy() as process:
        assert said(process, "\n").endswith("bought\n")
    with buy() as process:
        assert said(process).endswith("bought\n")
    assert client.event(event)["allocatedTickets"] == 2


def test_a_command_that_is_refused_says_why(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "order.json"
    asked = ["checkout.py", UNKNOWN, "--url", service.url, "--order", str(order)]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit, match="NOT_FOUND: There is no such event"):
        loaded().main()
    monkeypatch.setattr(sys, "argv", [*asked, "--quantity", "2"])
    with pytest.raises(SystemExit, match=f"is another order, of 1 for {UNKNOWN}"):
        loaded().main()


def test_a_command_that_is_interrupted_gives_back(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    with command(tmp_path, event, service.url) as process:
        assert process.stdout is not None
        while "held for" not in process.stdout.read(20):
            pass
        process.send_signal(signal.SIGINT)
        assert said(process).endswith("given back\n")
    assert client.event(event)["availableTickets"] == 4


def test_a_command_without_a_terminal_buys_nothing(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    with command(tmp_path, event, service.url) as process:
        assert said(process).endswith("given back\n")
    assert client.event(event)["availableTickets"] == 4


def test_an_order_that_two_begin_at_once_is_one(tmp_path: Path) -> None:
    module = loaded()
    begin = partial(module.Order.open, tmp_path / "order.json", UNKNOWN, 1)
    assert len({order.key for order in at_once(*[begin] * 8)}) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["order.json"]
    assert (tmp_path / "order.json").stat().st_mode & 0o077 == 0
