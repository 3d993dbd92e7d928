"""The refusals: a closed list, each with its HTTP status, its code and its text.

A refusal is returned, not raised; ``web.responses`` renders it. The mappings at the end translate
the outcome codes of ``sql/`` into refusals, one mapping for each operation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from msgspec import Struct

from service import limits
from service.rows import Id, Uuid


class BadField(Struct, gc=False):
    """A field, parameter or id that is invalid, and the reason."""

    field: str
    message: str


class Available(Struct, rename="camel", gc=False):
    """The number of tickets that are available."""

    available_tickets: int


class Waiting(Struct, rename="camel", gc=False):
    """The number of tickets that are available, and of those that people in line want."""

    available_tickets: int
    waiting_tickets: int


class Allocated(Struct, rename="camel", gc=False):
    """The number of tickets that are allocated."""

    allocated_tickets: int


class SaleOpens(Struct, rename="camel", gc=False):
    """When the sale opens."""

    sale_opens_at: datetime


class SaleCloses(Struct, rename="camel", gc=False):
    """When the sale closed."""

    sale_closes_at: datetime


class Limit(Struct, rename="camel", gc=False):
    """The limit of a person, and the tickets that this person holds and has purchased."""

    max_tickets_per_person: int
    held: int
    purchased: int


class Revision(Struct, gc=False):
    """The current revision of an event."""

    revision: int


class HeldUntil(Struct, rename="camel", gc=False):
    """When the hold of a reservation ends; of several, the one that ends first."""

    expires_at: datetime


class InTheWay(Struct, rename="camel", gc=False):
    """The ticket because of which a request for its whole reservation was refused."""

    ticket_id: Id


# What a refusal can contain besides its code and text; most refusals contain none of it.
Details = (
    list[BadField]
    | Available
    | Waiting
    | Allocated
    | SaleOpens
    | SaleCloses
    | Limit
    | Revision
    | HeldUntil
    | InTheWay
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not carried out: ``error`` for people, ``code`` for programs."""

    status: int
    code: str
    error: str
    details: Details | None = None
    headers: dict[str, str] = field(default_factory=dict)
    # Example details for the OpenAPI description, which derives the schema from their type.
    example_details: Details | None = None

    def with_details(self, details: Details, headers: Mapping[str, str] | None = None) -> "Refusal":
        """Return the same refusal with its details, and with further headers."""
        return replace(self, details=details, headers={**self.headers, **(headers or {})})


_RETRY = {"Retry-After": str(limits.RETRY_AFTER_SECONDS)}

BAD_REQUEST = Refusal(
    400,
    "BAD_REQUEST",
    "The request is invalid",
    example_details=[BadField("eventId", "must be a UUID")],
)
UNAUTHORIZED = Refusal(
    401, "UNAUTHORIZED", "The organizer's token is required", headers={"WWW-Authenticate": "Bearer"}
)
NOT_FOUND = Refusal(404, "NOT_FOUND", "Not found")
EVENT_NOT_FOUND = Refusal(404, "NOT_FOUND", "Event not found")
RESERVATION_NOT_FOUND = Refusal(404, "NOT_FOUND", "Reservation not found")
TICKET_NOT_FOUND = Refusal(404, "NOT_FOUND", "Ticket allocation not found")
ENTRY_NOT_FOUND = Refusal(404, "NOT_FOUND", "Waiting list entry not found")
METHOD_NOT_ALLOWED = Refusal(405, "METHOD_NOT_ALLOWED", "Method not allowed")
PAYLOAD_TOO_LARGE = Refusal(
    413, "PAYLOAD_TOO_LARGE", f"The body is larger than {limits.MAX_BODY_BYTES} bytes"
)
MISDIRECTED_REQUEST = Refusal(
    421,
    "MISDIRECTED_REQUEST",
    "The service does not have the name in the header Host: see ALLOWED_HOSTS",
)
UNSUPPORTED_MEDIA_TYPE = Refusal(415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json")
WRONG_FINGERPRINT = Refusal(403, "WRONG_FINGERPRINT", "Invalid user fingerprint")
IDEMPOTENCY_KEY_REUSED = Refusal(
    422, "IDEMPOTENCY_KEY_REUSED", "The idempotency key was used for another quantity"
)
HOLD_EXPIRED = Refusal(410, "HOLD_EXPIRED", "Ticket allocation has expired")
TICKETS_SOLD_OUT = Refusal(
    409, "TICKETS_SOLD_OUT", "Not enough tickets available", example_details=Available(0)
)
NOT_ENOUGH_TICKETS = Refusal(
    409, "NOT_ENOUGH_TICKETS", "Not enough tickets available", example_details=Available(2)
)
SALE_NOT_OPEN = Refusal(
    409,
    "SALE_NOT_OPEN",
    "The sale has not opened yet",
    headers={"Retry-After": str(limits.MAX_RETRY_AFTER_SECONDS)},
    example_details=SaleOpens(datetime(2029, 12, 1, 10, 0, tzinfo=UTC)),
)
SALE_CLOSED = Refusal(
    409,
    "SALE_CLOSED",
    "The sale is closed",
    example_details=SaleCloses(datetime(2029, 12, 31, 22, 0, tzinfo=UTC)),
)
LIMIT_REACHED = Refusal(
    409,
    "LIMIT_REACHED",
    "One person may not have so many tickets of this event",
    example_details=Limit(max_tickets_per_person=4, held=2, purchased=1),
)
WAITING_LIST_FIRST = Refusal(
    409,
    "WAITING_LIST_FIRST",
    "The tickets are for the people who wait in line: join the waiting list",
    example_details=Waiting(available_tickets=2, waiting_tickets=5),
)
EVENT_CHANGED = Refusal(
    409,
    "EVENT_CHANGED",
    "The event has changed since the revision that the request names",
    example_details=Revision(3),
)


def contradictory_terms(bad_columns: Iterable[str]) -> Refusal:
    """Return the refusal of terms of sale that contradict each other.

    Args:
        bad_columns: the columns of these terms, from the column ``bad`` of the statement.
    """
    return BAD_REQUEST.with_details(
        [detail for column in bad_columns for detail in _CONTRADICTIONS[column]]
    )


_CONTRADICTIONS = {
    "sale_closes_at": [
        BadField("saleOpensAt", "must be before saleClosesAt"),
        BadField("saleClosesAt", "must be after saleOpensAt"),
    ],
    "max_hold_seconds": [
        BadField("holdSeconds", "must not be more than maxHoldSeconds"),
        BadField("maxHoldSeconds", "must not be less than holdSeconds"),
    ],
}

PRECONDITION_FAILED = Refusal(
    412, "PRECONDITION_FAILED", "The event is not in the state that the header If-Match names"
)
EVENT_EXISTS = Refusal(409, "EVENT_EXISTS", "An event with this name and date already exists")
CAPACITY_BELOW_ALLOCATED = Refusal(
    409,
    "CAPACITY_BELOW_ALLOCATED",
    "More tickets are allocated than the new total",
    example_details=Allocated(100),
)
NO_TICKET_LEFT = Refusal(
    409,
    "CAPACITY_BELOW_ALLOCATED",
    "An event keeps at least one ticket",
    example_details=Allocated(1),
)
NOT_PURCHASED = Refusal(409, "NOT_PURCHASED", "Can only refund purchased tickets")
ALREADY_REFUNDED = Refusal(409, "ALREADY_REFUNDED", "Ticket is already refunded")
BUSY = Refusal(
    503,
    "BUSY",
    "The service is busy and did nothing: send the same request again",
    headers=_RETRY,
)
OUTCOME_UNKNOWN = Refusal(
    503,
    "OUTCOME_UNKNOWN",
    "The outcome is unknown: send the same request again, with its key",
    headers=_RETRY,
)
INTERNAL_SERVER_ERROR = Refusal(500, "INTERNAL_SERVER_ERROR", "Internal server error")

# Refusals that every write may get.
WRITE_REFUSALS = (BUSY, OUTCOME_UNKNOWN)

_NOT_RESERVED = ("already_purchased", "already_cancelled", "already_refunded")
CANNOT_PAY = {
    "not_found": TICKET_NOT_FOUND,
    "wrong_fingerprint": WRONG_FINGERPRINT,
    "hold_expired": HOLD_EXPIRED,
    **{code: Refusal(409, code.upper(), "Invalid allocation status") for code in _NOT_RESERVED},
    "busy": BUSY,
}
# For a payment that may reacquire expired tickets.
CANNOT_REACQUIRE = CANNOT_PAY | {
    "hold_expired": replace(HOLD_EXPIRED, example_details=Waiting(0, 5)),
    "limit_reached": LIMIT_REACHED,
}
CANNOT_CANCEL = CANNOT_PAY | {
    code: Refusal(409, code.upper(), "Can only cancel reserved tickets") for code in _NOT_RESERVED
}
_IN_THE_WAY = InTheWay(Uuid("01a20215-b4f6-76a2-94fd-e3bce2dcb5c5"))
CANNOT_PAY_RESERVATION = {
    code: refusal if refusal is BUSY else replace(refusal, example_details=_IN_THE_WAY)
    for code, refusal in CANNOT_PAY.items()
} | {"not_found": RESERVATION_NOT_FOUND}
# Its refusals name the ticket, except those that have other details.
CANNOT_REACQUIRE_RESERVATION = CANNOT_PAY_RESERVATION | {
    code: CANNOT_REACQUIRE[code] for code in ("hold_expired", "limit_reached")
}
CANNOT_CANCEL_RESERVATION = {
    code: refusal if refusal is BUSY else replace(refusal, example_details=_IN_THE_WAY)
    for code, refusal in CANNOT_CANCEL.items()
} | {"not_found": RESERVATION_NOT_FOUND}
HOLD_AT_MAXIMUM = Refusal(
    409,
    "HOLD_AT_MAXIMUM",
    "The hold cannot be extended any further",
    example_details=HeldUntil(datetime(2029, 11, 22, 20, 0, tzinfo=UTC)),
)
CANNOT_EXTEND_RESERVATION = CANNOT_PAY_RESERVATION | {"hold_at_maximum": HOLD_AT_MAXIMUM}
CANNOT_FIND_RESERVATION = {
    code: CANNOT_PAY_RESERVATION[code] for code in ("not_found", "wrong_fingerprint")
}
CANNOT_TRANSFER = {
    "not_found": TICKET_NOT_FOUND,
    "wrong_fingerprint": WRONG_FINGERPRINT,
    "hold_expired": HOLD_EXPIRED,
    **{
        code: Refusal(409, code.upper(), "Can only transfer reserved or purchased tickets")
        for code in ("already_cancelled", "already_refunded")
    },
    "limit_reached": LIMIT_REACHED,
    "busy": BUSY,
}
CANNOT_REFUND = {
    "not_found": TICKET_NOT_FOUND,
    "not_purchased": NOT_PURCHASED,
    "already_refunded": ALREADY_REFUNDED,
    "capacity_below_allocated": NO_TICKET_LEFT,
    "busy": BUSY,
}
CANNOT_REFUND_RESERVATION = CANNOT_REFUND | {"not_found": RESERVATION_NOT_FOUND}
CANNOT_RESERVE = {
    "not_found": EVENT_NOT_FOUND,
    "idempotency_key_reused": IDEMPOTENCY_KEY_REUSED,
    "sale_not_open": SALE_NOT_OPEN,
    "sale_closed": SALE_CLOSED,
    "limit_reached": LIMIT_REACHED,
    "waiting_list_first": WAITING_LIST_FIRST,
    "not_enough_tickets": NOT_ENOUGH_TICKETS,
    "tickets_sold_out": TICKETS_SOLD_OUT,
}
CANNOT_JOIN = {
    "not_found": EVENT_NOT_FOUND,
    "already_waiting": Refusal(
        409, "ALREADY_WAITING", "This person already waits for another number of tickets"
    ),
    "sale_not_open": SALE_NOT_OPEN,
    "sale_closed": SALE_CLOSED,
    "limit_reached": LIMIT_REACHED,
    "not_enough_tickets": replace(NOT_ENOUGH_TICKETS, error="The event has fewer tickets"),
    "waiting_list_full": Refusal(409, "WAITING_LIST_FULL", "The waiting list is full"),
}
CANNOT_LEAVE = {
    "not_found": ENTRY_NOT_FOUND,
    "wrong_fingerprint": WRONG_FINGERPRINT,
    "already_left": Refusal(409, "ALREADY_LEFT", "This person has left the waiting list"),
    "already_purchased": Refusal(
        409, "ALREADY_PURCHASED", "A ticket of the offer is already purchased"
    ),
    "hold_expired": replace(HOLD_EXPIRED, error="The entry or its offer has lapsed"),
}
CANNOT_UPDATE = {
    "not_found": EVENT_NOT_FOUND,
    "precondition_failed": PRECONDITION_FAILED,
    "event_changed": EVENT_CHANGED,
    "event_exists": EVENT_EXISTS,
    "capacity_below_allocated": CAPACITY_BELOW_ALLOCATED,
    "busy": BUSY,
}
