"""The demo: runs a temporary service, lets a crowd buy from it, and audits it.

The service has its own PostgreSQL in a temporary folder, and touches no other data. Both stop
with the demo, however it ends.
"""

import asyncio
import dataclasses
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from service.cli.audit import audit, finish_audit
from service.cli.demo.client import Client
from service.cli.demo.crowd import Crowd, Event
from service.cli.demo.report import Screen, error_lines, success_lines
from service.cli.errors import CommandFailed
from service.database.statements import load_statements
from service.embedded.parent import stop_with_parent
from service.embedded.postgres import EmbeddedPostgres
from service.settings import Settings
from service.temporary import TMP, TemporaryFolder, remove_abandoned_folders

# For each event: its tickets for each second of --seconds (a demo of 20 s has 20 * 20 = 400), and
# how many people arrive per second.
EVENTS = {"Opening night": (20, 100), "Matinee": (20, 40), "Last night": (17, 20)}
DEMO_HOLD_SECONDS = 3
UPDATE_SECONDS = 0.25
START_SECONDS = 60
STOP_SECONDS = 30
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(seconds: int, sql_dir: Path, picture: Path | None) -> bool:
    """Sell out a few events to a crowd, and return whether everything was right.

    Args:
        seconds: about how long people arrive.
        sql_dir: the folder of the statements.
        picture: the SVG file to write, if any.

    Raises:
        CommandFailed, EmbeddedError, BrokenStatement: with a message of one line.
        KeyboardInterrupt: at Ctrl-C, after everything is removed.
    """
    hold_seconds = max(1, min(DEMO_HOLD_SECONDS, seconds // 6))
    events = [Event(name, tickets * seconds, rate) for name, (tickets, rate) in EVENTS.items()]
    screen = Screen(has_picture=picture is not None)
    with _service(hold_seconds, sql_dir, screen) as (url, data_dir):
        screen.print(f"{len(events)} events, a crowd, holds of {hold_seconds} s; Ctrl-C stops it")
        screen.print(f"watch it in the box office: {url}/")
        ledger = asyncio.run(_sell(url, events, seconds, hold_seconds, screen))
        screen.print_table(events)
        with EmbeddedPostgres(data_dir) as postgres:  # attaches to the running server
            result = finish_audit(audit(str(postgres.dsn), load_statements(sql_dir)))
        screen.print_audit(result)
        screen.print("")
    errors = error_lines(events, ledger, result)
    screen.print(*(errors or success_lines(events, ledger)))
    if picture is not None:
        screen.save_picture(picture)
    return not errors


async def _sell(
    url: str, events: Sequence[Event], seconds: int, hold_seconds: int, screen: Screen
) -> Counter[str]:
    """Run the crowd and show its progress; return the sums of the ledgers."""
    loop = asyncio.get_running_loop()
    with Client(url) as client:
        for event in events:
            await event.create(client)
        start = loop.time()
        crowd = asyncio.create_task(Crowd(client, events, seconds, hold_seconds).run())
        try:
            with screen.live():
                while not crowd.done():
                    for event in events:
                        await event.update(client)
                    screen.update(events, loop.time() - start, seconds)
                    await asyncio.wait([crowd], timeout=UPDATE_SECONDS)
            await crowd
        finally:  # end the crowd before its client is closed
            crowd.cancel()
            await asyncio.wait([crowd])
        ledger: Counter[str] = Counter()
        for event in events:
            await event.update(client)
            ledger += await event.sum_ledger(client)
    return ledger


@contextmanager
def _service(hold_seconds: int, sql_dir: Path, screen: Screen) -> Iterator[tuple[str, Path]]:
    """Run a service with its own PostgreSQL; give its URL and its data folder."""
    for number in STOP_SIGNALS[1:]:  # Python raises KeyboardInterrupt at SIGINT
        signal.signal(number, _exit)
    # In /tmp, because a socket's path must be short, and because root's PostgreSQL runs as
    # another user, who must be able to enter the folder.
    remove_abandoned_folders()
    with TemporaryFolder.create("demo", TMP) as temporary:
        folder = temporary.path
        folder.chmod(0o711)
        screen.print(f"starting a PostgreSQL and a service in {folder}")
        log = folder / "service.log"
        settings = {"HOLD_SECONDS": hold_seconds, "SQL_DIR": sql_dir}
        process = _start(temporary, log, settings)
        try:
            yield _wait_until_ready(process, log), folder
        finally:
            for number in STOP_SIGNALS:  # a second Ctrl-C must not interrupt the cleanup
                signal.signal(number, signal.SIG_IGN)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(
    folder: TemporaryFolder, log: Path, settings: dict[str, object]
) -> subprocess.Popen[bytes]:
    """Start the service with these settings, and without those of the environment."""
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    settings |= {"HOST": "127.0.0.1", "PORT": 0, "DATA_DIR": folder.path, "LOG_LEVEL": "error"}
    with log.open("wb") as output:
        return subprocess.Popen(
            # -P: do not import a package "service" of the current folder.
            [sys.executable, "-P", "-m", "service", "serve"],
            env={**environment, **{name: str(value) for name, value in settings.items()}},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the demo, not the terminal, stops it after Ctrl-C
            pass_fds=[folder.lock],  # if the demo is killed, the folder stays until it has stopped
            preexec_fn=stop_with_parent(os.getpid(), signal.SIGTERM),
        )


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the service's URL when it responds."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        if address := re.search(r"serves http://(\S+)", log.read_text()):
            with suppress(OSError):
                connection = http.client.HTTPConnection(address[1], timeout=START_SECONDS)
                connection.request("GET", "/health/live")
                connection.getresponse()
                connection.close()
                return f"http://{address[1]}"
    reason = (log.read_text().splitlines() or ["it printed no error"])[-1]
    raise CommandFailed(f"the demo's service does not start: {reason.removeprefix('holdfast: ')}")


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
