"""Browser: Debian's Chromium without a window, driven as a person would, and listened to.

It is its headless shell, which asks the network for nothing of itself; the whole browser looks for
updates and for accounts also with all of that switched off. It is spoken to in the DevTools
protocol over two pipes, in JSON with a NUL behind each message, and logs all that it asks for.
"""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from queue import Queue
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.support.waiting import WAIT_SECONDS, wait_until

PACKAGE = "chromium-headless-shell"

ASKING = {
    "URL_REQUEST_START_JOB": "url",
    "HOST_RESOLVER_MANAGER_REQUEST": "host",
    "TCP_CONNECT_ATTEMPT": "address",
}
"""What its log has when it asks for something, looks for a host, or connects to one: the kind of
the entry, and where in it stands which."""

KEYS = {"Tab": 9, "Enter": 13}
"""With the codes that Windows has for them, which are the protocol's."""


class Browser:
    """A browser with one page, for as long as the block runs."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "net-log.json"
        self._command = [
            *(shutil.which(PACKAGE) or "", "--remote-debugging-pipe", "about:blank"),
            *(f"--user-data-dir={folder}", f"--log-net-log={self._log}"),
            # A container's memory disk may be too small for it.
            "--disable-dev-shm-usage",
            # Root must say that nothing shields the machine from the pages.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        self._answers: Queue[dict[str, Any]] = Queue()
        self._asked = 0
        self._session: dict[str, str] = {}
        self.console_errors: list[str] = []
        """What its console has shown in red, but for answers that are refusals."""

    def __enter__(self) -> Self:
        """Start it, with an empty page."""
        if not self._command[0]:
            pytest.skip(f"there is no Chromium here: apt-get install {PACKAGE}")
        commands, self._commands = os.pipe()
        self._messages, messages = os.pipe()
        self._process = subprocess.Popen(
            # It has its pipes as descriptors 3 and 4.
            ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{messages}', *self._command],
            pass_fds=(commands, messages),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(messages)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        infos = self.call("Target.getTargets")["targetInfos"]
        (page,) = [one for one in infos if one["type"] == "page"]
        of_page = {"targetId": page["targetId"], "flatten": True}
        self._session = {"sessionId": self.call("Target.attachToTarget", **of_page)["sessionId"]}
        for domain in ("Log", "Page", "Runtime"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        """End it, which completes its log; it also ends when the pipe to it does."""
        self._session = {}
        self.call("Browser.close")
        self._listener.join()
        os.close(self._commands)
        self._process.wait(WAIT_SECONDS)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something in the protocol's words and return what comes of it."""
        self._asked += 1
        asked = {"id": self._asked, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(asked).encode() + b"\0")
        answer = self._answers.get(timeout=WAIT_SECONDS)
        assert answer["id"] == self._asked
        # There is none where the page went away meanwhile.
        result: dict[str, Any] = answer.get("result", {})
        assert "exceptionDetails" not in result, result
        return result

    def _listen(self) -> None:
        with open(self._messages, "rb") as messages:
            rest = b""
            while part := messages.read1():
                *whole, rest = (rest + part).split(b"\0")
                for message in map(json.loads, whole):
                    if "id" in message:
                        self._answers.put(message)
                    elif message["method"] == "Log.entryAdded":
                        entry = message["params"]["entry"]
                        if entry["source"] != "network":
                            self.console_errors.append(entry["text"])
                    elif message["method"] == "Runtime.exceptionThrown":
                        self.console_errors.append(str(message["params"]["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Go to a page."""
        assert "errorText" not in self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found.get("result", {}).get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true on the page."""
        wait_until(lambda: bool(self.value(expression)))

    def click(self, selector: str) -> None:
        """Click on what is there, once it is."""
        self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, selector: str, text: str) -> None:
        """Write into a field that can be seen, in the place of what is there."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def requested_hosts(self) -> set[str]:
        """Return each host, with its port, that it has asked or looked for; after its end."""
        log = json.loads(self._log.read_text())
        kinds = {log["constants"]["logEventTypes"][kind]: name for kind, name in ASKING.items()}
        named = [
            entry["params"][kinds[entry["type"]]]
            for entry in log["events"]
            if entry["type"] in kinds and kinds[entry["type"]] in entry.get("params", {})
        ]
        return {urlsplit(one if "//" in one else f"//{one}").netloc for one in named}
