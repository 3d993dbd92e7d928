"""The pictures of the box office in docs/images: written by this test, from a sale like that."""

import struct
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.box_office import DESKTOP, PHONE, BoxOffice
from tests.support.client import Client
from tests.support.database import Database
from tests.support.documents import REWRITES_PAGES
from tests.support.paths import DOCS, ROOT

IMAGES = DOCS / "images"
SIZES = {
    "box-office-list": (1280, 800),
    "box-office-event": (1280, 1180),
    "box-office-phone": (390, 844),
}


# As if the sale had lasted for 40 minutes: the ledger's times, without its trigger.
STRETCH = """
set session_replication_role = replica;
update event_ledger set recorded_at = now() - (now() - recorded_at) * (
    select 2400 / extract(epoch from max(now() - recorded_at))::float8 from event_ledger
);
"""


def buy(client: Client, event: str, buyer: str, quantity: int, *, pays: bool = True) -> None:
    """Reserve tickets, and pay for them or not."""
    tickets = client.reserve(event, quantity, buyer).json()
    if pays:
        client.pay_reservation(tickets[0]["reservationId"], buyer)


def fill(client: Client, database: Database) -> dict[str, str]:
    """Sell three events to some hundred people; return all events by name."""
    now = datetime.now(UTC).replace(hour=19, minute=0, second=0, microsecond=0)

    def at(days: int) -> str:
        return (now + timedelta(days=days)).isoformat()

    for name, days, tickets, terms in (
        (
            "Opening night",
            18,
            500,
            {"maxTicketsPerPerson": 4, "holdSeconds": 600, "saleClosesAt": at(17)},
        ),
        ("Matinee", 19, 240, {"saleClosesAt": at(18)}),
        ("Chamber concert", 25, 120, {"saleOpensAt": at(2)}),
        ("Last night", 32, 60, {}),
        ("Dress rehearsal", -2, 60, {"saleClosesAt": "now"}),
    ):
        client.create_event(name=name, date=at(days), tickets=tickets, **terms)
    events = {event["name"]: event["id"] for event in client.get("/events").json()["data"]}
    for name, people in (("Matinee", 30), ("Last night", 30), ("Opening night", 150)):
        for number in range(people):
            quantity = 2 if name == "Last night" else 1 + number % 3
            buy(client, events[name], f"{name[0]}-{number}", quantity, pays=number % 6 > 0)
    database.psql(STRETCH)
    return events


@pytest.mark.slow
@pytest.mark.skipif(not REWRITES_PAGES, reason="writes only with HOLDFAST_TEST_WRITES_DOCUMENTS")
def test_the_pictures_are_written(page: BoxOffice, client: Client, database: Database) -> None:
    events = fill(client, database)
    page.call("Emulation.setScrollbarsHidden", hidden=True)
    for name, (width, height) in SIZES.items():
        screen = PHONE if "phone" in name else DESKTOP
        page.resize({**screen, "width": width, "height": height})
        if name == "box-office-list":
            page.show_list()
            page.wait_for_text("paid", ".events")
            for number, event in enumerate([events["Opening night"]] * 5 + [events["Matinee"]] * 2):
                buy(client, event, f"late-{number}", 2)
            page.wait_for("document.body.innerText.match(/[1-9]\\d* sold/g)?.length === 2")
        else:
            page.show_event(events["Opening night"])
            page.wait_for_text("Audit: all")
            page.wait_for("!!document.querySelector('.chart path.paid')")
        page.save_picture(IMAGES / f"{name}.png")


@pytest.mark.parametrize("name", SIZES)
def test_a_picture_has_its_size_and_is_shown(name: str) -> None:
    picture = (IMAGES / f"{name}.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == SIZES[name]
    assert f"images/{name}.png" in "".join(
        page.read_text() for page in (ROOT / "README.md", DOCS / "how-to" / "run-an-on-sale.md")
    )
