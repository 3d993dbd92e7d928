"""A shop's checkout: reserves with a key, shows the time left, pays, explains every refusal.

    python docs/examples/checkout.py EVENT --quantity 2 --order order-1.json

Enter pays, Ctrl-C gives the tickets back. The order is saved before anything is sent, so the same
command continues one that was killed. Here it is saved in a file; a shop saves it in its database.
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

# One try. The service responds within 5 s, once it has the body; a retry before that only makes
# the queue longer.
TIMEOUT_SECONDS = 10.0
# All tries of one request. After that the order is kept and can be continued.
GIVE_UP_SECONDS = 60.0
# How far the header Date may be behind: it has no fractions, and is renewed once a second.
CLOCK_SECONDS = 2.0
# With less time left than this the hold is extended before the money is taken.
PAYMENT_SECONDS = 120.0
# With less than this left, and no extension possible, no money is taken.
LEAST_PAYMENT_SECONDS = 10.0

# After these refusals the same request is sent again.
RETRIED = {"BUSY", "OUTCOME_UNKNOWN"}
# After these it is not known whether the tickets are paid for.
UNKNOWN = RETRIED | {"INTERNAL_SERVER_ERROR"}

# The message to the buyer for every code that the routes below can return.
MESSAGES = {
    "BAD_REQUEST": "This order is invalid: check the event and the number of tickets.",
    "NOT_FOUND": "There is no such event, or no such order.",
    "PAYLOAD_TOO_LARGE": "The shop has made a mistake: it sent too much.",
    "MISDIRECTED_REQUEST": "The shop has made a mistake: it uses a name that the service lacks.",
    "UNSUPPORTED_MEDIA_TYPE": "The shop has made a mistake: it did not send JSON.",
    "IDEMPOTENCY_KEY_REUSED": "This order was started with another number of tickets.",
    "SALE_NOT_OPEN": "The sale has not opened yet: come back when it does.",
    "SALE_CLOSED": "The sale is over.",
    "LIMIT_REACHED": "You have as many tickets of this event as one person may have: take fewer.",
    "WAITING_LIST_FIRST": "People wait in line for these tickets. Join the waiting list.",
    "TICKETS_SOLD_OUT": (
        "Sold out. Tickets that others hold and do not pay for come back: try again later."
    ),
    "NOT_ENOUGH_TICKETS": "There are not enough tickets for that: take fewer.",
    "WRONG_FINGERPRINT": "This order belongs to somebody else.",
    "HOLD_EXPIRED": "The time is up, and the tickets are available to others: start a new order.",
    "HOLD_AT_MAXIMUM": "There is too little time left to pay: start a new order.",
    "ALREADY_PURCHASED": "Tickets of this order are paid for already.",
    "ALREADY_CANCELLED": "Tickets of this order were given back.",
    "ALREADY_REFUNDED": "Tickets of this order were refunded.",
    "BUSY": "Very many people want tickets right now. Nothing is done yet, and it is not sold out.",
    "OUTCOME_UNKNOWN": "There was no response. Asking again is safe: nothing is done twice.",
    "INTERNAL_SERVER_ERROR": "The service has failed. Your order is kept: try again later.",
}

# The code to report for an order that is found in this status.
CODES_OF_ENDED = {
    "expired": "HOLD_EXPIRED",
    "user_cancelled": "ALREADY_CANCELLED",
    "refunded": "ALREADY_REFUNDED",
}


class Refusal(Exception):
    """The service has refused a request. The text is for the buyer."""

    def __init__(self, code: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(MESSAGES[code])
        self.code = code
        self.retry_after_seconds = retry_after_seconds


@dataclass
class Order:
    """One intention to buy. Keep it: its fingerprint proves whose the tickets are.

    Attributes:
        event: the event's id.
        quantity: how many tickets.
        fingerprint: 256 random bits; who knows it can pay and cancel.
        key: the Idempotency-Key, one for each order and the same for all its tries.
    """

    event: str
    quantity: int
    fingerprint: str
    key: str

    @classmethod
    def open(cls, path: Path, event: str, quantity: int) -> "Order":
        """Return the order that is saved in a file, or save a new one and return it."""
        if not path.exists():
            order = cls(event, quantity, secrets.token_urlsafe(32), secrets.token_urlsafe(16))
            # The file is complete or absent, and of two concurrent orders only one is saved.
            with NamedTemporaryFile("w", dir=path.parent) as draft, suppress(FileExistsError):
                json.dump(asdict(order), draft)
                draft.flush()
                os.fsync(draft.fileno())
                os.link(draft.name, path)
        return cls(**json.loads(path.read_text()))


class Checkout:
    """An order: reserved, then paid for or cancelled.

    Each of its requests can be sent again as it is: the reservation has its key, and a payment or
    a cancel that was done before is refused with ``ALREADY_…``.

    Attributes:
        reservation: its latest known state: ``id``, ``status``, ``expiresAt``.
    """

    def __init__(
        self, service: httpx2.Client, order: Order, on_retry: Callable[[Refusal], None]
    ) -> None:
        self._service = service
        self._order = order
        self._on_retry = on_retry
        # What to add to time.monotonic() for the time of the service's clock.
        self._clock_offset = time.time() - time.monotonic()
        self.reservation: dict[str, Any] = {}

    def reserve(self) -> None:
        """Reserve the tickets, or find those that this order has reserved before.

        Raises:
            Refusal: also if the order had tickets and has none any more.
        """
        tickets = self._send(
            "POST",
            f"/events/{self._order.event}/tickets",
            headers={"Idempotency-Key": self._order.key},
            json={"quantity": self._order.quantity, "userFingerprint": self._order.fingerprint},
        )
        # A replay is 201 with the tickets as they are now: perhaps purchased, perhaps expired.
        self.reservation = summarize(tickets)
        self._raise_if_ended()

    def seconds_left(self) -> float:
        """Return for how long the tickets are still held, by the service's clock.

        Up to two seconds too few, never too many. At 0 call ``refresh()``: only the service knows
        whether the hold has expired.
        """
        if self.reservation["expiresAt"] is None:
            return 0.0
        end = datetime.fromisoformat(self.reservation["expiresAt"]).timestamp()
        return max(0.0, end - (time.monotonic() + self._clock_offset))

    def refresh(self) -> None:
        """Read the state of the reservation.

        Raises:
            Refusal: if nothing is held any more.
        """
        self.reservation = self._find()
        self._raise_if_ended()

    def buy(self, charge: Callable[[], None], refund: Callable[[], None]) -> None:
        """Take the money, then pay for the tickets; give the money back if they are gone.

        Args:
            charge: takes the buyer's money. A shop saves with the order that it has.
            refund: gives it back.

        Raises:
            Refusal: nothing was paid for; with a code of UNKNOWN that is not known, and the money
                is kept until ``pay()`` says more.
        """
        self.extend()
        charge()
        try:
            self.pay()
        except Refusal as refusal:
            if refusal.code not in UNKNOWN:
                refund()
            raise

    def extend(self) -> None:
        """Hold the tickets for longer if little time is left, before the money is taken.

        Raises:
            Refusal: the hold has expired, or cannot be extended and is about to.
        """
        if self.seconds_left() >= PAYMENT_SECONDS:
            return
        body = {"userFingerprint": self._order.fingerprint}
        try:
            extended = self._send("POST", f"{self._path()}/extension", json=body)
        except Refusal as refusal:
            if refusal.code != "HOLD_AT_MAXIMUM" or self.seconds_left() < LEAST_PAYMENT_SECONDS:
                raise
        else:
            self.reservation = summarize(extended["tickets"])

    def pay(self) -> None:
        """Pay for all tickets, or find that an earlier try has; the money is taken already.

        If their hold has expired meanwhile they are reacquired, as long as they are available.

        Raises:
            Refusal: nothing was paid for; with a code of UNKNOWN that is not known.
        """
        body = {"userFingerprint": self._order.fingerprint, "ifExpired": "reacquire"}
        self._change("purchased", "POST", f"{self._path()}/payment", json=body)

    def cancel(self) -> None:
        """Cancel all held tickets, or find that an earlier try has.

        Raises:
            Refusal: nothing was cancelled; with a code of RETRIED that is not known.
        """
        self._change("user_cancelled", "DELETE", self._path(), headers=self._owner())

    def _change(self, status: str, method: str, path: str, **request: Any) -> None:
        """Send a change; if it is refused as done already, compare the reservation's status."""
        try:
            self.reservation = summarize(self._send(method, path, **request)["tickets"])
        except Refusal as refusal:
            if not refusal.code.startswith("ALREADY_"):
                raise
            reservation = self._find()
            if reservation["status"] != status:
                raise
            self.reservation = reservation

    def _find(self) -> dict[str, Any]:
        return summarize(self._send("GET", self._path(), headers=self._owner())["tickets"])

    def _raise_if_ended(self) -> None:
        if code := CODES_OF_ENDED.get(self.reservation["status"]):
            raise Refusal(code)

    def _path(self) -> str:
        return f"/reservations/{self.reservation['id']}"

    def _owner(self) -> dict[str, str]:
        return {"X-User-Fingerprint": self._order.fingerprint}

    def _send(self, method: str, path: str, **request: Any) -> Any:
        """Send a request until its outcome is known, and return the response's body."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                response = self._service.request(method, path, **request)
                self._read_clock(response)
                return read_body(response)
            except httpx2.RequestError:
                refusal = Refusal("OUTCOME_UNKNOWN")
            except Refusal as error:
                if error.code not in RETRIED:
                    raise
                refusal = error
            # With jitter, so that buyers do not all come back at once.
            delay = refusal.retry_after_seconds * random.uniform(1, 2)  # noqa: S311
            if time.monotonic() + delay > deadline:
                raise refusal
            self._on_retry(refusal)
            time.sleep(delay)

    def _read_clock(self, response: httpx2.Response) -> None:
        """Take the time from a response: this machine's clock may be wrong."""
        if "Date" in response.headers:
            service_time = parsedate_to_datetime(response.headers["Date"]).timestamp()
            self._clock_offset = service_time + CLOCK_SECONDS - time.monotonic()


def summarize(tickets: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the checkout needs to know of a reservation.

    Its status is ``reserved`` while any ticket is held, then ``purchased`` if any was bought, else
    that of the first ticket.
    """
    statuses = [ticket["status"] for ticket in tickets]
    return {
        "id": tickets[0]["reservationId"],
        "status": next(
            (status for status in ("reserved", "purchased") if status in statuses), statuses[0]
        ),
        "expiresAt": min(
            (ticket["expiresAt"] for ticket in tickets if ticket["status"] == "reserved"),
            default=None,
        ),
    }


def read_body(response: httpx2.Response) -> Any:
    """Return the body of a response.

    Raises:
        Refusal: the service has refused; OUTCOME_UNKNOWN if the response is not the service's, such
            as a proxy's error page.
    """
    try:
        body = response.json()
    except ValueError:
        raise Refusal("OUTCOME_UNKNOWN") from None
    if response.is_success:
        return body
    code = body.get("code") if isinstance(body, dict) else None
    seconds = response.headers.get("Retry-After", "")
    raise Refusal(
        code if code in MESSAGES else "OUTCOME_UNKNOWN",
        float(seconds) if seconds.isdecimal() else 1.0,
    )


def sell(checkout: Checkout) -> None:
    """Go through the checkout with a buyer at a terminal."""
    checkout.reserve()
    while checkout.reservation["status"] != "purchased":
        try:
            seconds = int(checkout.seconds_left())
            print(f"\rheld for {seconds // 60}:{seconds % 60:02d}, Enter pays ", end="", flush=True)
            pays = select.select([sys.stdin], [], [], 1)[0]
            if pays and not sys.stdin.readline():  # the terminal is gone, nobody pressed Enter
                raise EOFError
        except (KeyboardInterrupt, EOFError):
            checkout.cancel()
            print("\ngiven back")
            return
        if pays:
            # Here the shop takes the money: docs/how-to/put-it-behind-a-shop.md.
            checkout.buy(charge=lambda: None, refund=lambda: print("\nYour money is given back."))
        elif not seconds:
            checkout.refresh()
    print("\nbought")


def main() -> None:
    """Sell what the command line asks for."""
    parser = argparse.ArgumentParser(description="Buy tickets of an event.")
    parser.add_argument("event", help="the event's id")
    parser.add_argument("--quantity", type=int, default=1, help="how many tickets (default: 1)")
    parser.add_argument("--order", type=Path, default=Path("order.json"), help="the order's file")
    parser.add_argument("--url", default="http://localhost:8000", help="the service")
    options = parser.parse_args()
    order = Order.open(options.order, options.event, options.quantity)
    if (order.event, order.quantity) != (options.event, options.quantity):
        sys.exit(f"{options.order} is another order, of {order.quantity} for {order.event}")
    with httpx2.Client(base_url=options.url, timeout=TIMEOUT_SECONDS) as service:
        checkout = Checkout(service, order, lambda refusal: print(f"{refusal} Trying again."))
        try:
            sell(checkout)
        except Refusal as refusal:
            sys.exit(f"\n{refusal.code}: {refusal}")
        except KeyboardInterrupt:
            sys.exit("\nstopped; the same command continues this order")


if __name__ == "__main__":
    main()
