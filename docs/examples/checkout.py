"""A shop's checkout: reserves with a key, shows the time left, pays, and tells every refusal.

    python docs/examples/checkout.py EVENT --quantity 2 --order order-1.json

Enter pays, Ctrl-C gives the tickets back. What a run that was killed has begun, the same command
goes on with: the order is written down before anything is sent. Here it is a file; in a shop it
is a row of its database.
"""

import argparse
import json
import os
import random
import secrets
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import httpx2

TIMEOUT_SECONDS = 10.0
"""For one try. The service answers within 5 s, once it has the body; who asks again before that
only makes the line longer."""
PATIENCE_SECONDS = 60.0
"""For all tries of one request. After that the order can be taken up again."""
CLOCK_SECONDS = 2.0
"""What the header Date may be behind: it has no fractions, and is renewed once a second."""

AGAIN = {"BUSY", "OUTCOME_UNKNOWN"}
"""The refusals that are not the end: the same request is sent again."""

TOLD = {
    "BAD_REQUEST": "This order is not taken as it is: see the event and the number of tickets.",
    "NOT_FOUND": "There is no such event, or no such order.",
    "PAYLOAD_TOO_LARGE": "The shop has made a mistake: it sent too much.",
    "UNSUPPORTED_MEDIA_TYPE": "The shop has made a mistake: it did not send JSON.",
    "IDEMPOTENCY_KEY_REUSED": "This order was begun with another number of tickets.",
    "TICKETS_SOLD_OUT": "Sold out. What others hold and do not pay for comes back: look again.",
    "NOT_ENOUGH_TICKETS": "There are not so many left: take fewer.",
    "WRONG_FINGERPRINT": "This order is somebody else's.",
    "HOLD_EXPIRED": "The time is up, and the tickets are free again: begin a new order.",
    "ALREADY_PURCHASED": "A part of this order is paid for already.",
    "ALREADY_CANCELLED": "Tickets of this order were given back.",
    "ALREADY_REFUNDED": "Tickets of this order were refunded.",
    "BUSY": "Very many want tickets just now. Nothing is done yet, and it is not sold out.",
    "OUTCOME_UNKNOWN": "No answer came. The next one will show; nothing is done twice.",
    "INTERNAL_SERVER_ERROR": "The service has failed. Your order is kept: try again later.",
}
"""What the buyer is told, for every code that the routes below can give."""

ENDED = {
    "expired": "HOLD_EXPIRED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
}
"""What is told of an order that is found in such a state."""


class Refused(Exception):
    """The service has refused. The text is for the buyer."""

    def __init__(self, code: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(TOLD[code])
        self.code = code
        self.retry_after_seconds = retry_after_seconds


@dataclass
class Order:
    """One intention to buy. It is kept for ever: its fingerprint is what proves the tickets."""

    event: str
    quantity: int
    fingerprint: str
    """Of 256 random bits: whoever knows it can pay, and give back."""
    key: str
    """The Idempotency-Key: one for each order, the same for all its tries."""

    @classmethod
    def open(cls, path: Path, event: str, quantity: int) -> "Order":
        """Return the order that is written down there, or else write down a new one."""
        if not path.exists():
            order = cls(event, quantity, secrets.token_urlsafe(32), secrets.token_urlsafe(16))
            # Whole or not at all, and of two that are begun at once only one.
            with NamedTemporaryFile("w", dir=path.parent) as draft, suppress(FileExistsError):
                json.dump(asdict(order), draft)
                draft.flush()
                os.fsync(draft.fileno())
                os.link(draft.name, path)
        return cls(**json.loads(path.read_text()))


class Checkout:
    """An order on its way: reserved, then paid for or given back.

    Each request of it may be sent again as it is: the reservation has its key, and a payment or
    a cancel that has happened is refused the second time (``ALREADY_…``).
    """

    def __init__(
        self, service: httpx2.Client, order: Order, waiting: Callable[[Refused], None]
    ) -> None:
        self._service = service
        self._order = order
        self._waiting = waiting
        self._ahead_seconds = time.time() - time.monotonic()
        self.reservation: dict[str, Any] = {}
        """As the service has told it last: ``id``, ``status``, ``expiresAt``."""

    def reserve(self) -> None:
        """Reserve the tickets, or find those that the order has reserved before.

        Raises:
            Refused: also when they were had, and are no longer.
        """
        tickets = self._send(
            "POST",
            f"/events/{self._order.event}/tickets",
            headers={"Idempotency-Key": self._order.key},
            json={"quantity": self._order.quantity, "userFingerprint": self._order.fingerprint},
        )
        # A repeat answers 201 with the tickets as they are now: perhaps paid for, perhaps lapsed.
        statuses = {ticket["status"] for ticket in tickets}
        self.reservation = {
            "id": tickets[0]["reservationId"],
            "status": statuses.pop() if len(statuses) == 1 else "mixed",
            "expiresAt": min(
                (ticket["expiresAt"] for ticket in tickets if ticket["status"] == "reserved"),
                default=None,
            ),
        }
        self._refuse_what_has_ended()

    def seconds_left(self) -> float:
        """Return how long the tickets are held, by the service's clock.

        Two seconds less, rather than one more. At 0 look: whether the time is up, the service says.
        """
        if self.reservation["expiresAt"] is None:
            return 0.0
        ends = datetime.fromisoformat(self.reservation["expiresAt"]).timestamp()
        return max(0.0, ends - (time.monotonic() + self._ahead_seconds))

    def look(self) -> None:
        """Ask how it stands with the reservation.

        Raises:
            Refused: when nothing is held any more.
        """
        self.reservation = self._send("GET", self._path(), headers=self._owner())
        self._refuse_what_has_ended()

    def pay(self) -> None:
        """Pay for all tickets, or find that an earlier try has.

        Raises:
            Refused: nothing is paid for now; with a code of AGAIN it is not known.
        """
        body = {"userFingerprint": self._order.fingerprint}
        self._settle("purchased", "POST", f"{self._path()}/payment", json=body)

    def give_back(self) -> None:
        """Give all tickets back, or find that an earlier try has.

        Raises:
            Refused: nothing is given back now; with a code of AGAIN it is not known.
        """
        self._settle("user_cancelled", "DELETE", self._path(), headers=self._owner())

    def _settle(self, status: str, method: str, path: str, **request: Any) -> None:
        """Bring it about that the reservation has a status, by however many tries."""
        try:
            self.reservation = self._send(method, path, **request)
        except Refused as refused:
            if not refused.code.startswith("ALREADY_"):
                raise
            found = self._send("GET", self._path(), headers=self._owner())
            if found["status"] != status:
                raise
            self.reservation = found

    def _refuse_what_has_ended(self) -> None:
        if code := ENDED.get(self.reservation["status"]):
            raise Refused(code)

    def _path(self) -> str:
        return f"/reservations/{self.reservation['id']}"

    def _owner(self) -> dict[str, str]:
        return {"X-User-Fingerprint": self._order.fingerprint}

    def _send(self, method: str, path: str, **request: Any) -> Any:
        """Send a request until it is answered, and return the answer's body."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._service.request(method, path, **request)
                self._read_clock(answer)
                return read(answer)
            except httpx2.RequestError:
                refused = Refused("OUTCOME_UNKNOWN")
            except Refused as error:
                if error.code not in AGAIN:
                    raise
                refused = error
            # Not all at the same moment.
            pause = refused.retry_after_seconds * random.uniform(1, 2)  # noqa: S311
            if time.monotonic() + pause > give_up:
                raise refused
            self._waiting(refused)
            time.sleep(pause)

    def _read_clock(self, answer: httpx2.Response) -> None:
        """Take the service's clock from an answer: the buyer's may be anything."""
        if "Date" in answer.headers:
            at = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            self._ahead_seconds = at + CLOCK_SECONDS - time.monotonic()


def read(answer: httpx2.Response) -> Any:
    """Return an answer's body, or raise Refused.

    What is no word of the service's, such as a proxy's page, tells nothing of what was done.
    """
    try:
        told = answer.json()
    except ValueError:
        raise Refused("OUTCOME_UNKNOWN") from None
    if answer.is_success:
        return told
    code = told.get("code") if isinstance(told, dict) else None
    after = answer.headers.get("Retry-After", "")
    raise Refused(
        code if code in TOLD else "OUTCOME_UNKNOWN", float(after) if after.isdecimal() else 1.0
    )


def sell(checkout: Checkout) -> None:
    """Go through the checkout with the buyer, at a terminal."""
    checkout.reserve()
    while checkout.reservation["status"] != "purchased":
        try:
            left = int(checkout.seconds_left())
            print(f"\rheld for {left // 60}:{left % 60:02d}, Enter pays ", end="", flush=True)
            pays = select.select([sys.stdin], [], [], 1)[0]
            if pays and not sys.stdin.readline():  # the terminal is gone: nobody presses Enter
                raise EOFError
        except (KeyboardInterrupt, EOFError):
            checkout.give_back()
            print("\ngiven back")
            return
        # What is mixed (some of it paid for, say) cannot be paid for whole: it is told why.
        if pays or checkout.reservation["status"] == "mixed":
            # Here the shop takes the money: docs/how-to/put-it-behind-a-shop.md.
            checkout.pay()
        elif not left:
            checkout.look()
    print("\nbought")


def main() -> None:
    """Sell what the command line asks for."""
    parser = argparse.ArgumentParser(description="Buys tickets of an event.")
    parser.add_argument("event", help="the event's id")
    parser.add_argument("--quantity", type=int, default=1, help="how many tickets (default: 1)")
    parser.add_argument("--order", type=Path, default=Path("order.json"), help="the order's file")
    parser.add_argument("--url", default="http://localhost:8000", help="the service")
    asked = parser.parse_args()
    order = Order.open(asked.order, asked.event, asked.quantity)
    if (order.event, order.quantity) != (asked.event, asked.quantity):
        sys.exit(f"{asked.order} is another order, of {order.quantity} for {order.event}")
    with httpx2.Client(base_url=asked.url, timeout=TIMEOUT_SECONDS) as service:
        checkout = Checkout(service, order, lambda refused: print(f"{refused} Trying again."))
        try:
            sell(checkout)
        except Refused as refused:
            sys.exit(f"\n{refused.code}: {refused}")
        except KeyboardInterrupt:
            sys.exit("\nleft as it is; the same command goes on with it")


if __name__ == "__main__":
    main()
