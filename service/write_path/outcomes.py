"""The outcomes: what SQL has decided about a change, and the columns that say more about it."""

from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import Struct

from service.rows import Event, TicketAllocation, Uuid

# What SQL decides about a change: that it was carried out, or why not.
OutcomeCode = Literal[
    "granted",
    "replayed",
    "busy",
    "not_found",
    "event_exists",
    "precondition_failed",
    "event_changed",
    "contradictory_terms",
    "sale_not_open",
    "sale_closed",
    "limit_reached",
    "waiting_list_first",
    "waiting_list_full",
    "already_waiting",
    "already_left",
    "wrong_fingerprint",
    "hold_expired",
    "hold_at_maximum",
    "already_purchased",
    "already_cancelled",
    "already_refunded",
    "not_purchased",
    "not_enough_tickets",
    "tickets_sold_out",
    "idempotency_key_reused",
    "capacity_below_allocated",
    "more_to_expire",
]


# max_tickets_per_person, how many tickets the person holds, and how many the person has purchased.
Person = tuple[int, int, int]


class ReservationRefusal(NamedTuple):
    """The columns of ``reserve_tickets`` and ``join_waiting_list`` that say why it was refused."""

    available_tickets: int | None  # None if there is no such event
    waiting_tickets: int | None  # how many tickets those who wait in line want
    # For sale_not_open the time when the sale opens, for sale_closed the time when it closed.
    sale_turns_at: datetime | None
    opens_in: float | None  # for sale_not_open, in seconds
    person: Person | None  # for limit_reached


class LatePaymentRefusal(NamedTuple):
    """The columns of ``reacquire_tickets`` that say why a late payment was refused."""

    deciding_ticket_id: Uuid | None
    available_tickets: int | None
    waiting_tickets: int | None  # how many tickets those who wait in line want
    person: Person | None  # for limit_reached


# More about a refusal, or the entry of a person who joined. Which of these it is depends on the
# kind of the change and on the code:
# - int: the number of allocated tickets (refund, update), or the event's revision (update)
# - Uuid: the ticket that decided the outcome (cancel, pay, extend), or the entry (join)
# - list: the columns with contradictory terms (update)
# - ReservationRefusal: why no tickets were reserved (reserve), or why nobody joined (join)
# - LatePaymentRefusal: why no tickets were reacquired (reacquire)
# - Person: the new owner (transfer)
Detail = int | Uuid | list[str] | ReservationRefusal | LatePaymentRefusal | Person | None


class Outcome(Struct, frozen=True, gc=False):
    """What SQL decided about one change, with the data of the response."""

    code: OutcomeCode
    tickets: tuple[TicketAllocation, ...] = ()
    detail: Detail = None
    # How many of the tickets this change itself has changed. The others may have been changed
    # before, by an earlier request.
    tickets_moved: int = 0
    # How many of these had expired and were reacquired.
    tickets_reacquired: int = 0
    # The event after an update.
    event: Event | None = None
