"""The demo: a service of its own for half a minute, a crowd in front of it, and the audit.

It has a PostgreSQL of its own in a temporary folder, and so never meets anybody's data. Both end
with it, however it ends.
"""

import asyncio
import dataclasses
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from service.cli.audit import audit, shown_audit
from service.cli.demo.client import Client
from service.cli.demo.crowd import Crowd, Show
from service.cli.demo.report import Screen, what_is_wrong, what_was_shown
from service.database.statements import load_statements
from service.embedded.parent import ending_with
from service.embedded.postgres import EmbeddedPostgres
from service.serving import CannotServe
from service.settings import Settings

SHOWS = {"Opening night": (20, 100), "Matinee": (20, 40), "Last night": (17, 20)}
"""Each event's tickets for a second of the demo, and its people a second."""
LONGEST_HOLD_SECONDS = 3
LOOK_SECONDS = 0.25
START_SECONDS = 60
STOP_SECONDS = 30
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(seconds: int, sql_dir: Path, picture: Path | None) -> bool:
    """Sell out a few events to a crowd, and tell whether it was all as it should be.

    Args:
        seconds: about how long the crowd comes.
        sql_dir: where the statements are read from.
        picture: where an SVG of it is written.

    Raises:
        CannotServe, EmbeddedError, BrokenStatement: one line each.
        KeyboardInterrupt: at Ctrl-C, when nothing is left behind.
    """
    hold_seconds = max(1, min(LONGEST_HOLD_SECONDS, seconds // 6))
    shows = [Show(name, tickets * seconds, rate) for name, (tickets, rate) in SHOWS.items()]
    screen = Screen(drawn=picture is not None)
    with _service(hold_seconds, sql_dir, screen) as (url, data_dir):
        screen.say(f"{len(shows)} events, a crowd, holds of {hold_seconds} s; Ctrl-C ends it")
        moved = asyncio.run(_sale(url, shows, seconds, hold_seconds, screen))
        screen.table(shows)
        with EmbeddedPostgres(data_dir) as postgres:  # it runs already: this is for its URL
            done = shown_audit(audit(str(postgres.dsn), load_statements(sql_dir)))
        screen.audit(done)
        screen.say("")
    wrong = what_is_wrong(shows, moved, done)
    screen.say(*(wrong or what_was_shown(shows, moved)))
    if picture is not None:
        screen.save(picture)
    return not wrong


async def _sale(
    url: str, shows: Sequence[Show], seconds: int, hold_seconds: int, screen: Screen
) -> Counter[str]:
    """Let the crowd come, and watch it; return what the ledgers have of it."""
    loop = asyncio.get_running_loop()
    with Client(url) as client:
        for show in shows:
            await show.create(client)
        begun = loop.time()
        crowd = asyncio.create_task(Crowd(client, shows, seconds, hold_seconds).come())
        try:
            with screen.watching():
                while not crowd.done():
                    for show in shows:
                        await show.look(client)
                    screen.show(shows, loop.time() - begun, seconds)
                    await asyncio.wait([crowd], timeout=LOOK_SECONDS)
            await crowd
        finally:  # nobody is to send anything once the client is closed
            crowd.cancel()
            await asyncio.wait([crowd])
        moved: Counter[str] = Counter()
        for show in shows:
            await show.look(client)
            moved += await show.moved(client)
    return moved


@contextmanager
def _service(hold_seconds: int, sql_dir: Path, screen: Screen) -> Iterator[tuple[str, Path]]:
    """Run a service on a PostgreSQL of its own; give its URL, and where the data lies."""
    for stop in STOPS[1:]:
        signal.signal(stop, _leave)
    # /tmp: a socket's path has to be short, and root's PostgreSQL, which does not run as root,
    # has to come through.
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        screen.say(f"starting a PostgreSQL and a service, all of it in {folder}")
        log = folder / "service.log"
        process = _start(folder, log, {"HOLD_SECONDS": hold_seconds, "SQL_DIR": sql_dir})
        try:
            yield _wait_for(process, log), folder
        finally:
            for stop in STOPS:  # another Ctrl-C waits for the first
                signal.signal(stop, signal.SIG_IGN)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, log: Path, settings: dict[str, object]) -> subprocess.Popen[bytes]:
    ours = {"HOST": "127.0.0.1", "PORT": 0, "DATA_DIR": folder, "LOG_LEVEL": "error", **settings}
    theirs = {one.name.upper() for one in dataclasses.fields(Settings)}
    inherited = {name: value for name, value in os.environ.items() if name not in theirs}
    with log.open("wb") as output:
        return subprocess.Popen(
            # -P: a folder called service, where somebody happens to be, is not ours.
            [sys.executable, "-P", "-m", "service", "serve"],
            env={**inherited, **{name: str(value) for name, value in ours.items()}},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us, who then stop it
            preexec_fn=ending_with(os.getpid(), signal.SIGTERM),
        )


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the service's URL, once it answers there."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        if found := re.search(r"serves http://(\S+)", log.read_text()):
            with suppress(OSError):
                connection = http.client.HTTPConnection(found[1], timeout=START_SECONDS)
                connection.request("GET", "/health/live")
                connection.getresponse()
                connection.close()
                return f"http://{found[1]}"
    said = log.read_text().splitlines() or ["no word of why"]
    raise CannotServe(f"the demo's service does not start: {said[-1].removeprefix('holdfast: ')}")


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
