"""The box office in a browser, used as a person does: by the texts of labels and buttons."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.support.browser import Browser
from tests.support.client import Client
from tests.support.services import RunningService

# An element counts only if it can be seen.
_FIND = """
(() => {{
  const text = {text}, all = [...document.querySelectorAll({selector})];
  return all.find((node) => node.textContent.trim() === text && node.checkVisibility());
}})()"""

_ENTER = """
(() => {{
  const control = {field};
  control.value = {text};
  for (const type of ["input", "change"]) control.dispatchEvent(new Event(type, {{bubbles: true}}));
}})()"""

# Headless Chromium has no window to hide, so the test overrides document.hidden.
_HIDE = (
    "Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)

PHONE = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
DESKTOP = {"width": 1280, "height": 960, "deviceScaleFactor": 1, "mobile": False}


class BoxOffice(Browser):
    """The page ``/`` in a browser whose zone is that of Berlin.

    It serves one test after another. At its end, it must have asked no host but their services.
    """

    zone = "Europe/Berlin"

    def __init__(self, folder: Path, *services: RunningService) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self._services = list(services)

    def __enter__(self) -> Self:
        """Start the browser."""
        super().__enter__()
        self.call("Emulation.setTimezoneOverride", timezoneId=self.zone)
        self.resize(DESKTOP)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the browser, and check its console and its network log."""
        super().__exit__(*error)
        if error[0] is None:
            assert self.console_errors == []
            assert self.requested_hosts() <= {
                service.url.removeprefix("http://") for service in self._services
            }

    @contextmanager
    def use(self, service: RunningService) -> Iterator[Self]:
        """Lend it to a test with a service; at the end its console must be empty."""
        self._services.append(service)
        self.console_errors.clear()
        self.resize(DESKTOP)
        self.call("Emulation.setEmulatedMedia", features=[])
        yield self
        assert self.console_errors == []
        self.open("about:blank")

    @property
    def _service(self) -> RunningService:
        return self._services[-1]

    def show_list(self) -> None:
        """Open the list of events."""
        self.open(f"{self._service.url}/")
        self.wait_for("document.querySelector('h1')?.textContent === 'Events'")

    def show_event(self, event_id: str) -> None:
        """Open the page of an event, and wait for its history."""
        self.open(f"{self._service.url}/#event={event_id}")
        self.wait_for("!!document.querySelector('.changes li')")

    def resize(self, screen: dict[str, Any]) -> None:
        """Set the size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", **screen)

    def press_button(self, text: str) -> None:
        """Wait for a button with a text, and click it."""
        button = _find("button", text)
        self.wait_for(f"!!{button}")
        self.value(f"{button}.click()")

    def has_button(self, text: str) -> bool:
        """Whether there is a button with this text."""
        return bool(self.value(f"!!{_find('button', text)}"))

    def enter(self, label: str, text: str) -> None:
        """Enter a text into the field with a label, as if it were typed."""
        field = f"{_find('label', label)}?.control"
        self.wait_for(f"!!{field}")
        self.value(_ENTER.format(field=field, text=json.dumps(text)))

    def field(self, label: str) -> Any:
        """Return the value of the field with a label."""
        return self.value(f"{_find('label', label)}?.control.value")

    def text(self, selector: str = "main") -> str:
        """Return the visible text of an element."""
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_for_text(self, text: str, selector: str = "main") -> None:
        """Wait until an element shows a text."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"!!{element}?.innerText.includes({json.dumps(text)})")

    def number(self, name: str) -> str:
        """Return one of the large numbers of an event's page."""
        return self.text(f"[data-part={name}]")

    def requested_paths(self) -> list[str]:
        """Return the paths of the API that the page has asked for."""
        urls = self.value("performance.getEntriesByType('resource').map((entry) => entry.name)")
        paths = [url.removeprefix(self._service.url) for url in urls]
        return [path for path in paths if not path.startswith("/box-office/")]

    def set_hidden(self, hidden: bool) -> None:
        """Let the page believe that its tab is in the background, or in front again."""
        self.value(_HIDE.format(hidden=json.dumps(hidden)))

    def save_picture(self, file: Path) -> None:
        """Write a screenshot of the window."""
        picture = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))


def _find(selector: str, text: str) -> str:
    return _FIND.format(selector=json.dumps(selector), text=json.dumps(text))


def sell(client: Client, event_id: str, buyer: str, quantity: int = 1, *, pays: bool = True) -> str:
    """Reserve tickets for a buyer, pay for them or not, and return the reservation's id."""
    tickets = client.reserve(event_id, quantity, buyer).json()
    if pays:
        assert client.pay_reservation(tickets[0]["reservationId"], buyer).status_code == 200
    return str(tickets[0]["reservationId"])
