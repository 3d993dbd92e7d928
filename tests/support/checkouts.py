"""Checkouts: the two of docs/examples, driven alike, the one in Python and the other in Node."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from types import ModuleType
from typing import Any

import httpx2
import pytest

from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

EXAMPLES = ROOT / "docs" / "examples"
NODE = shutil.which("node")
UNKNOWN = "018f0000-0000-7000-8000-000000000001"

EVENT_SOURCE = "--experimental-eventsource"
"""What Node has an EventSource with, from 20.18 on."""


def node_is() -> tuple[int, bool]:
    """Return Node's major version, 0 for none, and whether it has an EventSource."""
    if NODE is None:
        return 0, False
    known = f"process.allowedNodeEnvironmentFlags.has('{EVENT_SOURCE}')"
    asked = f"JSON.stringify([parseInt(process.versions.node), {known}])"
    told = subprocess.run([NODE, "-p", asked], capture_output=True, text=True, check=True)
    version, is_known = json.loads(told.stdout)
    return version, is_known


NODE_VERSION, HAS_EVENT_SOURCE = node_is()
needs_node = pytest.mark.skipif(NODE_VERSION < 20, reason="there is no node 20 or newer")


class Clock:
    """A clock that says 1970, and waits for nobody while its time goes on."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def time(self) -> float:
        """Return the time of day, which is wrong."""
        return 0.0

    def monotonic(self) -> float:
        """Return a time that only grows."""
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        """Wait for a small part of what is asked for."""
        self._skipped += seconds
        time.sleep(seconds / 50)


def load_checkout() -> ModuleType:
    """Return docs/examples/checkout.py as a module of its own, with a clock of its own."""
    spec = importlib.util.spec_from_file_location("checkout", EXAMPLES / "checkout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["checkout"] = module
    spec.loader.exec_module(module)
    vars(module)["time"] = Clock()
    return module


class PythonCheckout:
    """A checkout in Python; its order lies in a folder."""

    def __init__(self, url: str, event: str, folder: Path) -> None:
        self._module = load_checkout()
        self._file = folder / "order.json"
        self._event = event
        self._service = httpx2.Client(base_url=url, timeout=WAIT_SECONDS)
        self._checkout: Any = None
        self.retry_codes: list[str] = []
        """With which codes it was told to wait."""
        self.messages: dict[str, str] = self._module.TOLD
        """What it tells of each code."""

    def do(self, verb: str, *arguments: int) -> str:
        """Do one thing, and return the order's status, or the code with which it was refused."""
        try:
            if verb == "reserve":
                order = self._module.Order.open(self._file, self._event, *arguments)
                self._checkout = self._module.Checkout(
                    self._service, order, lambda refused: self.retry_codes.append(refused.code)
                )
                self._checkout.reserve()
            else:
                getattr(self._checkout, verb)()
        except self._module.Refused as refused:
            return str(refused.code)
        return str(self.reservation["status"])

    @property
    def reservation(self) -> dict[str, Any]:
        """As the checkout knows it."""
        found: dict[str, Any] = self._checkout.reservation
        return found

    @property
    def seconds_left(self) -> float:
        """The time that it shows."""
        return float(self._checkout.seconds_left())

    @property
    def saved_order(self) -> dict[str, Any]:
        """What it has written down."""
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    def overwrite_order(self, **changes: Any) -> None:
        """Change what it has written down."""
        self._file.write_text(json.dumps(self.saved_order | changes))
        for name, value in changes.items():
            setattr(self._checkout._order, name, value)

    def close(self) -> None:
        """End it as a crash would."""
        self._service.close()


class NodeCheckout:
    """A checkout in JavaScript, in a process of its own; what a browser keeps lies in a file."""

    def __init__(self, url: str, event: str, folder: Path) -> None:
        self._event = event
        self._file = folder / "storage.json"
        if not self._file.exists():
            self._file.write_text("{}")
        assert NODE is not None
        self._process = subprocess.Popen(
            [
                *(NODE, "--no-warnings", *([EVENT_SOURCE] if HAS_EVENT_SOURCE else [])),
                *(str(ROOT / "tests" / "support" / "checkout.mjs"), url, event, str(self._file)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: Queue[dict[str, Any]] = Queue()
        self.retry_codes: list[str] = []
        self.streamed_events: list[dict[str, Any]] = []
        """What a stream has told."""
        Thread(target=self._listen, daemon=True).start()
        self.messages: dict[str, str] = self._answers.get(timeout=WAIT_SECONDS)["told"]
        self.reservation: dict[str, Any] = {}

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):
            for line in self._process.stdout:
                told = json.loads(line)
                if "waiting" in told:
                    self.retry_codes.append(told["waiting"])
                elif "seen" in told:
                    self.streamed_events.append(told["seen"])
                else:
                    self._answers.put(told)

    def send_command(self, *words: str | int) -> None:
        """Have it do one thing."""
        assert self._process.stdin is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)

    def do(self, verb: str, *arguments: int) -> str:
        """Do one thing, and return the order's status, or the code with which it was refused."""
        self.send_command("giveBack" if verb == "give_back" else verb, *arguments)
        self.reservation = self._answers.get(timeout=WAIT_SECONDS)
        return str(self.reservation["code"] or self.reservation["status"])

    @property
    def seconds_left(self) -> float:
        """The time that it shows."""
        return float(self.reservation["left"])

    @property
    def saved_order(self) -> dict[str, Any]:
        """What it has written down."""
        found = json.loads(self._file.read_text())
        return {"fingerprint": found["fingerprint"], **json.loads(found[f"order {self._event}"])}

    def overwrite_order(self, **changes: Any) -> None:
        """Change what it has written down."""
        kept = self.saved_order | changes
        fingerprint = kept.pop("fingerprint")
        order = {f"order {self._event}": json.dumps(kept)}
        self._file.write_text(json.dumps({"fingerprint": fingerprint, **order}))

    def close(self) -> None:
        """End it as a crash would."""
        if self._process.returncode is not None:
            return
        self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
