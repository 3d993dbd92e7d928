"""The example checkout in Python, run as a command."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.checkouts import EXAMPLES, UNKNOWN, load_checkout
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService
from tests.support.waiting import WAIT_SECONDS, at_once


@contextmanager
def command(folder: Path, event: str, url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the checkout as its documentation says."""
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


def output_of(process: subprocess.Popen[str], keys: str = "") -> str:
    """Wait for the end of a command and return its output."""
    return process.communicate(keys, timeout=WAIT_SECONDS)[0]


def test_a_killed_command_finds_its_tickets_when_it_is_run_again(
    client: Client, database: Database, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    buy = partial(command, tmp_path, event, service.url, "--quantity", "2")
    with database.lock_event(event), buy() as process:
        service.wait_until_accepted(1)
        process.kill()
        process.wait()
    service.wait_until_accepted(0)
    assert client.find_event(event)["reservedTickets"] == 2
    with buy() as process:
        assert output_of(process, "\n").endswith("bought\n")
    with buy() as process:
        assert output_of(process).endswith("bought\n")
    assert client.find_event(event)["allocatedTickets"] == 2


def test_a_command_whose_tickets_are_gone_gives_the_money_back(
    client: Client, database: Database, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=1)
    with command(tmp_path, event, service.url) as process:
        assert process.stdout is not None
        while "held for" not in process.stdout.read(20):
            pass
        # The buyer, who sees a hold of 15 minutes, is charged after it has ended.
        database.psql("update ticket_allocations set expires_at = now()")
        client.hold(event, user="bob")
        output = output_of(process, "\n")
    assert "Your money is given back.\n\nHOLD_EXPIRED: The time is up" in output
    assert process.returncode == 1


def test_a_refused_command_prints_the_reason(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "order.json"
    arguments = ["checkout.py", UNKNOWN, "--url", service.url, "--order", str(order)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="NOT_FOUND: There is no such event"):
        load_checkout().main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--quantity", "2"])
    with pytest.raises(SystemExit, match=f"is another order, of 1 for {UNKNOWN}"):
        load_checkout().main()


def test_an_interrupted_command_cancels_its_tickets(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    with command(tmp_path, event, service.url) as process:
        assert process.stdout is not None
        while "held for" not in process.stdout.read(20):
            pass
        process.send_signal(signal.SIGINT)
        assert output_of(process).endswith("given back\n")
    assert client.find_event(event)["availableTickets"] == 4


def test_a_command_without_a_terminal_buys_nothing(
    client: Client, service: RunningService, tmp_path: Path
) -> None:
    event = client.create_event(tickets=4)
    with command(tmp_path, event, service.url) as process:
        assert output_of(process).endswith("given back\n")
    assert client.find_event(event)["availableTickets"] == 4


def test_an_order_that_is_opened_concurrently_is_created_once(tmp_path: Path) -> None:
    module = load_checkout()
    begin = partial(module.Order.open, tmp_path / "order.json", UNKNOWN, 1)
    assert len({order.key for order in at_once(*[begin] * 8)}) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["order.json"]
    assert (tmp_path / "order.json").stat().st_mode & 0o077 == 0
