"""The two checkouts of docs/examples, in Python and in Node, with the same interface."""

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

from tests.support.paths import ROOT
from tests.support.tools import needs
from tests.support.waiting import WAIT_SECONDS

EXAMPLES = ROOT / "docs" / "examples"
NODE = shutil.which("node")
UNKNOWN = "018f0000-0000-7000-8000-000000000001"

# The option that gives Node an EventSource, since 20.18.
EVENT_SOURCE = "--experimental-eventsource"


def detect_node() -> tuple[int, bool]:
    """Return Node's major version, or 0 if it is not installed, and if it has an EventSource."""
    if NODE is None:
        return 0, False
    has_option = f"process.allowedNodeEnvironmentFlags.has('{EVENT_SOURCE}')"
    script = f"JSON.stringify([parseInt(process.versions.node), {has_option}])"
    process = subprocess.run([NODE, "-p", script], capture_output=True, text=True, check=True)
    version, has_event_source = json.loads(process.stdout)
    return version, has_event_source


NODE_VERSION, HAS_EVENT_SOURCE = detect_node()
needs_node = needs(NODE_VERSION >= 20, "Node 20 or newer is missing")


class Clock:
    """A clock whose date is 1970, and whose sleeps are 50 times shorter than they seem."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def time(self) -> float:
        """Return the time of day, which is 1970."""
        return 0.0

    def monotonic(self) -> float:
        """Return the monotonic time, including what sleeps have skipped."""
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        """Sleep for a fiftieth of the time, and let the monotonic clock skip all of it."""
        self._skipped += seconds
        time.sleep(seconds / 50)


def load_checkout() -> ModuleType:
    """Return docs/examples/checkout.py as a new module with a ``Clock``."""
    spec = importlib.util.spec_from_file_location("checkout", EXAMPLES / "checkout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["checkout"] = module
    spec.loader.exec_module(module)
    vars(module)["time"] = Clock()
    return module


class PythonCheckout:
    """A checkout in Python, which saves its order in a folder.

    Attributes:
        retry_codes: the code of each refusal after which it retried.
        messages: its message for each code.
        payments: what the last ``buy`` did with the money: 'charged', 'refunded'.
    """

    def __init__(self, url: str, event: str, folder: Path) -> None:
        self._module = load_checkout()
        self._file = folder / "order.json"
        self._event = event
        self._service = httpx2.Client(base_url=url, timeout=WAIT_SECONDS)
        self._checkout: Any = None
        self.retry_codes: list[str] = []
        self.payments: list[str] = []
        self.messages: dict[str, str] = self._module.MESSAGES

    def do(self, verb: str, *arguments: int) -> str:
        """Call a method; return the status of the order, or the code of the refusal."""
        try:
            if verb == "reserve":
                order = self._module.Order.open(self._file, self._event, *arguments)
                self._checkout = self._module.Checkout(
                    self._service, order, lambda refusal: self.retry_codes.append(refusal.code)
                )
                self._checkout.reserve()
            elif verb == "buy":
                self.payments = []
                self._checkout.buy(
                    lambda: self.payments.append("charged"),
                    lambda: self.payments.append("refunded"),
                )
            else:
                getattr(self._checkout, verb)()
        except self._module.Refusal as refusal:
            return str(refusal.code)
        return str(self.reservation["status"])

    @property
    def reservation(self) -> dict[str, Any]:
        """The reservation as the checkout knows it."""
        reservation: dict[str, Any] = self._checkout.reservation
        return reservation

    @property
    def seconds_left(self) -> float:
        """The time that it shows until the hold ends."""
        return float(self._checkout.seconds_left())

    @property
    def saved_order(self) -> dict[str, Any]:
        """The order as it is saved."""
        order: dict[str, Any] = json.loads(self._file.read_text())
        return order

    def overwrite_order(self, **changes: Any) -> None:
        """Change the saved order."""
        self._file.write_text(json.dumps(self.saved_order | changes))
        for name, value in changes.items():
            setattr(self._checkout._order, name, value)

    def close(self) -> None:
        """End it without a shutdown, like a crash."""
        self._service.close()


class NodeCheckout:
    """A checkout in JavaScript, in a Node process, whose browser storage is a file.

    Attributes:
        retry_codes: the code of each refusal after which it retried.
        messages: its message for each code.
        payments: what the last ``buy`` did with the money: 'charged', 'refunded'.
        streamed_events: the events that its stream has received.
        reservation: as of the last command.
    """

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
        self._results: Queue[dict[str, Any]] = Queue()
        self.retry_codes: list[str] = []
        self.streamed_events: list[dict[str, Any]] = []
        Thread(target=self._listen, daemon=True).start()
        self.messages: dict[str, str] = self._results.get(timeout=WAIT_SECONDS)["messages"]
        self.reservation: dict[str, Any] = {}
        self.payments: list[str] = []

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):
            for line in self._process.stdout:
                result = json.loads(line)
                if "retryCode" in result:
                    self.retry_codes.append(result["retryCode"])
                elif "streamedEvent" in result:
                    self.streamed_events.append(result["streamedEvent"])
                else:
                    self._results.put(result)

    def send_command(self, *words: str | int) -> None:
        """Send a command to the process."""
        assert self._process.stdin is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)

    def do(self, verb: str, *arguments: int) -> str:
        """Call a method; return the status of the order, or the code of the refusal."""
        self.send_command(verb, *arguments)
        self.reservation = self._results.get(timeout=WAIT_SECONDS)
        self.payments = self.reservation["payments"]
        return str(self.reservation["code"] or self.reservation["status"])

    @property
    def seconds_left(self) -> float:
        """The time that it shows until the hold ends."""
        return float(self.reservation["secondsLeft"])

    @property
    def saved_order(self) -> dict[str, Any]:
        """The order as it is saved."""
        storage = json.loads(self._file.read_text())
        order = json.loads(storage[f"order {self._event}"])
        return {"fingerprint": storage["fingerprint"], **order}

    def overwrite_order(self, **changes: Any) -> None:
        """Change the saved order."""
        order = self.saved_order | changes
        fingerprint = order.pop("fingerprint")
        storage = {"fingerprint": fingerprint, f"order {self._event}": json.dumps(order)}
        self._file.write_text(json.dumps(storage))

    def close(self) -> None:
        """End it without a shutdown, like a crash."""
        if self._process.returncode is not None:
            return
        self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
