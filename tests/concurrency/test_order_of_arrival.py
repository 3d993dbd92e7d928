"""First come, first served, also for one ticket: the change that arrived first is decided first."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from httpx2 import Response
from hypothesis import given

from service import limits
from service.refusals import BUSY
from service.rows import Uuid
from service.write_path.batches import QueuedChange, keep_order, needs_reservations
from service.write_path.changes import Cancel, Change, Pay, Reacquire, Refund, Reserve, Transfer
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService
from tests.support.waiting import wait_until

Call = Callable[[Client, str, str], Response]

PAY: dict[str, Call] = {
    "a ticket": lambda client, ticket, _: client.pay(ticket),
    "a reservation": lambda client, _, whole: client.pay_reservation(whole),
}
CANCEL: dict[str, Call] = {
    "a ticket": lambda client, ticket, _: client.cancel(ticket),
    "a reservation": lambda client, _, whole: client.cancel_reservation(whole),
}


@pytest.mark.parametrize("second", CANCEL)
@pytest.mark.parametrize("first", PAY)
@pytest.mark.parametrize("payment_first", [True, False], ids=["pay first", "cancel first"])
def test_of_two_changes_in_one_batch_the_first_is_decided_first(
    client: Client,
    service: RunningService,
    database: Database,
    first: str,
    second: str,
    payment_first: bool,
) -> None:
    event = client.create_event()
    (ticket,) = client.reserve(event).json()
    ids = ticket["id"], ticket["reservationId"]
    calls = (PAY[first], CANCEL[second]) if payment_first else (CANCEL[second], PAY[first])
    with ThreadPoolExecutor(3) as pool:
        with database.lock_event(event):
            # While this one waits for the lock, the others wait for its batch to end.
            pool.submit(client.reserve, event, user="somebody")
            database.wait_until_blocked()
            responses = []
            for pending, call in enumerate(calls, start=2):
                responses.append(pool.submit(call, client, *ids))
                service.wait_until_accepted(pending)
        statuses = [response.result().status_code for response in responses]
    assert statuses == [200, 409]
    status = "purchased" if payment_first else "user_cancelled"
    assert client.find_ticket(ids[0]).json()["status"] == status


# Four tickets of two reservations.
TICKETS = {Uuid(f"t{n}"): Uuid(f"r{n // 2}") for n in range(4)}

changes = st.one_of(
    st.builds(
        lambda kind, ticket: kind(ticket_id=ticket, user_fingerprint="alice"),
        st.sampled_from([Pay, Cancel, Reacquire]),
        st.sampled_from(list(TICKETS)),
    ),
    st.builds(
        lambda kind, whole: kind(reservation_id=whole, user_fingerprint="alice"),
        st.sampled_from([Pay, Cancel, Reacquire]),
        st.sampled_from([Uuid("r0"), Uuid("r1")]),
    ),
    st.builds(lambda ticket: Refund(ticket_id=ticket), st.sampled_from(list(TICKETS))),
    st.builds(lambda whole: Refund(reservation_id=whole), st.sampled_from(["r0", "r1"])),
    st.builds(
        lambda ticket: Transfer(
            ticket_id=ticket, user_fingerprint="alice", new_user_fingerprint="bob"
        ),
        st.sampled_from(list(TICKETS)),
    ),
    st.builds(
        lambda quantity, key: Reserve(Uuid("e"), quantity, "alice", key),
        st.integers(1, 2),
        st.sampled_from(["", "k", "l"]),
    ),
)


def tickets_of(change: Change) -> set[Uuid]:
    """Return the tickets that a change is about."""
    if change.reservation_id:
        return {ticket for ticket, whole in TICKETS.items() if whole == change.reservation_id}
    return {change.ticket_id} if change.ticket_id else set()


def conflict(earlier: Change, later: Change) -> bool:
    """Whether two changes must not share a batch."""
    if isinstance(earlier, Reserve) and isinstance(later, Reserve):
        same_key = earlier.idempotency_key == later.idempotency_key != ""
        return same_key and earlier.quantity != later.quantity
    if not tickets_of(earlier) & tickets_of(later):
        return False
    return type(earlier) is not type(later) or isinstance(later, Reacquire | Transfer)


@given(st.lists(changes, max_size=12))
def test_no_order_of_arrival_is_turned_around_by_batches(arrived: list[Change]) -> None:
    loop = asyncio.new_event_loop()
    waiting = [QueuedChange(change, loop.create_future(), 0, 0) for change in arrived]
    loop.close()
    order = {id(queued): number for number, queued in enumerate(waiting)}
    batch_of: dict[int, int] = {}
    batches = 0
    while waiting:
        known = TICKETS if needs_reservations(waiting) else {}
        batch, aside = keep_order(waiting, known)
        assert batch, "a batch is empty although changes wait"
        assert sorted([*batch, *aside], key=lambda queued: order[id(queued)]) == waiting
        for queued in batch:
            batch_of[order[id(queued)]] = batches
        waiting, batches = aside, batches + 1
    for number, change in enumerate(arrived):
        rivals = [other for other in range(number) if conflict(arrived[other], change)]
        # A conflicting change that came first is decided in an earlier batch.
        assert all(batch_of[other] < batch_of[number] for other in rivals)
        if not rivals and not tickets_of(change) and not getattr(change, "idempotency_key", ""):
            assert batch_of[number] == 0
    for earlier, later in pairwise(range(len(arrived))):
        if type(arrived[earlier]) is type(arrived[later]) and arrived[earlier] == arrived[later]:
            assert batch_of[earlier] <= batch_of[later]


def test_changes_of_one_ticket_do_not_fill_every_batch() -> None:
    loop = asyncio.new_event_loop()
    ticket = Uuid("t0")
    hog: list[Change] = [
        kind(ticket_id=ticket, user_fingerprint="alice")
        for _ in range(240)
        for kind in (Pay, Cancel)
    ]
    waiting = [QueuedChange(change, loop.create_future(), 0, 0) for change in hog]
    batch, aside = keep_order(waiting, {})
    loop.close()
    assert [queued.change for queued in batch] == hog[:1]
    assert [queued.change for queued in aside] == hog[1 : 1 + limits.MAX_CHANGES_ASIDE]
    refused = waiting[1 + limits.MAX_CHANGES_ASIDE :]
    assert all(queued.result.result() is BUSY for queued in refused)


def test_one_key_with_two_quantities_needs_two_batches() -> None:
    """The outcome of the second depends on that of the first; another person's key does not."""
    arrived: list[Change] = [
        Reserve(Uuid("e"), quantity, user, "k")
        for quantity, user in ((2, "alice"), (2, "alice"), (1, "bob"), (1, "alice"))
    ]
    loop = asyncio.new_event_loop()
    waiting = [QueuedChange(change, loop.create_future(), 0, 0) for change in arrived]
    loop.close()
    batch, aside = keep_order(waiting, {})
    assert [queued.change for queued in batch] == arrived[:3]
    assert [queued.change for queued in aside] == arrived[3:]


def test_a_change_that_is_set_aside_is_not_overtaken_by_one_of_its_kind() -> None:
    """The cancellation of the whole reservation is refused, and the other one is not."""
    first, second = Uuid("t0"), Uuid("t1")
    arrived: list[Change] = [
        Pay(ticket_id=first, user_fingerprint="alice"),
        Cancel(reservation_id=TICKETS[first], user_fingerprint="alice"),
        Cancel(ticket_id=second, user_fingerprint="alice"),
    ]
    loop = asyncio.new_event_loop()
    waiting = [QueuedChange(change, loop.create_future(), 0, 0) for change in arrived]
    loop.close()
    batch, aside = keep_order(waiting, TICKETS)
    assert [queued.change for queued in batch] == arrived[:1]
    assert [queued.change for queued in aside] == arrived[1:]


def test_a_change_that_moves_to_the_lane_of_its_event_is_not_overtaken(
    client: Client,
    service: RunningService,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Long enough that the second change is queued while the first one waits in the shared lane.
    monkeypatch.setattr(limits, "SHARED_LOCK_SECONDS", 0.7)
    event = client.create_event()
    (ticket,) = client.hold(event)
    lanes = service.state.write_path._event_lanes
    with ThreadPoolExecutor(2) as pool:
        with database.lock_event(event):
            payment = pool.submit(client.pay, ticket)
            database.wait_until_blocked()
            cancel = pool.submit(client.cancel, ticket)
            service.wait_until_accepted(2)
            wait_until(lambda: Uuid(event) in lanes)
            database.wait_until_blocked()
        assert (payment.result().status_code, cancel.result().status_code) == (200, 409)
