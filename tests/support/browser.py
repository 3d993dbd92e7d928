"""Debian's headless Chromium, driven like a person would and with its network log.

It is the headless shell because that sends no requests of its own; the full browser looks for
updates and accounts even with all of that switched off. The tests talk to it in the DevTools
protocol over two pipes: JSON with a NUL after each message.
"""

import json
import os
import re
import subprocess
import threading
from pathlib import Path
from queue import Queue
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.tools import CHROMIUM, find_tool
from tests.support.waiting import WAIT_SECONDS, wait_until

# Entries of its log for a request, a DNS lookup and a connection, and the parameter with the host.
NETWORK_ENTRIES = {
    "URL_REQUEST_START_JOB": "url",
    "HOST_RESOLVER_MANAGER_REQUEST": "host",
    "TCP_CONNECT_ATTEMPT": "address",
}

# The hosts at which the whole browser looks for updates and accounts.
OWN_HOSTS = re.compile(r"(^|\.)(google|googleapis|gstatic|gvt1)\.com(:\d+)?$")

# Virtual key codes of Windows, which the protocol uses.
KEYS = {"Tab": 9, "Enter": 13}


class Browser:
    """A browser with one page, which runs for as long as its ``with`` block.

    Attributes:
        console_errors: errors in its console, except those for HTTP responses of 400 and above.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "net-log.json"
        self._command = [
            *(find_tool(*CHROMIUM), "--remote-debugging-pipe", "about:blank"),
            # The whole browser, where there is no headless shell, has a window otherwise, and
            # asks more of the network.
            *("--headless", "--disable-background-networking", "--disable-component-update"),
            *(f"--user-data-dir={folder}", f"--log-net-log={self._log}"),
            # The memory disk of a container may be too small.
            "--disable-dev-shm-usage",
            # Chromium refuses to run as root with its sandbox.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        self._responses: Queue[dict[str, Any]] = Queue()
        self._calls = 0
        self._session: dict[str, str] = {}
        self.console_errors: list[str] = []

    def __enter__(self) -> Self:
        """Start the browser with an empty page."""
        commands, self._commands = os.pipe()
        self._messages, messages = os.pipe()
        self._process = subprocess.Popen(
            # It expects the pipes as file descriptors 3 and 4.
            ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{messages}', *self._command],
            pass_fds=(commands, messages),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(messages)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        targets = self.call("Target.getTargets")["targetInfos"]
        (page,) = [target for target in targets if target["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Log", "Page", "Runtime"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        """Close the browser, which completes its log."""
        self._session = {}
        self.call("Browser.close")
        self._listener.join()
        os.close(self._commands)
        self._process.wait(WAIT_SECONDS)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._calls += 1
        call = {"id": self._calls, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(call).encode() + b"\0")
        response = self._responses.get(timeout=WAIT_SECONDS)
        assert response["id"] == self._calls
        # There is no result if the page was left meanwhile.
        result: dict[str, Any] = response.get("result", {})
        assert "exceptionDetails" not in result, result
        return result

    def _listen(self) -> None:
        with open(self._messages, "rb") as messages:
            rest = b""
            while part := messages.read1():
                *complete, rest = (rest + part).split(b"\0")
                for message in map(json.loads, complete):
                    if "id" in message:
                        self._responses.put(message)
                    elif message["method"] == "Log.entryAdded":
                        entry = message["params"]["entry"]
                        if entry["source"] != "network" and entry["level"] != "verbose":
                            self.console_errors.append(entry["text"])
                    elif message["method"] == "Runtime.exceptionThrown":
                        self.console_errors.append(str(message["params"]["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Open a page."""
        assert "errorText" not in self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result.get("result", {}).get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true on the page."""
        wait_until(lambda: bool(self.value(expression)))

    def click(self, selector: str) -> None:
        """Wait until an element exists, and click it."""
        self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, selector: str, text: str) -> None:
        """Replace the text of a visible field."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key."""
        key_event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key_event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key_event)

    def requested_hosts(self) -> set[str]:
        """Return all hosts, with ports, that it requested or looked up; call it after the end."""
        log = json.loads(self._log.read_text())
        kinds = {
            log["constants"]["logEventTypes"][kind]: name for kind, name in NETWORK_ENTRIES.items()
        }
        addresses = [
            entry["params"][kinds[entry["type"]]]
            for entry in log["events"]
            if entry["type"] in kinds and kinds[entry["type"]] in entry.get("params", {})
        ]
        hosts = {
            urlsplit(address if "//" in address else f"//{address}").netloc for address in addresses
        }
        return {host for host in hosts if not OWN_HOSTS.search(host)}
