"""The pictures of the box office in docs/images: written by this test, from a sale like that."""

import struct
from pathlib import Path

import pytest

from tests.support.box_office import DESKTOP, PHONE, BoxOffice
from tests.support.client import Client
from tests.support.database import Database
from tests.support.documents import REWRITES_PAGES
from tests.support.paths import DOCS

IMAGES = DOCS / "images"
SIZES = {
    "box-office-list": (1280, 800),
    "box-office-event": (1280, 1180),
    "box-office-phone": (390, 844),
}


def fill(client: Client, database: Database) -> str:
    """Sell for an hour, in the database, and return the event that sells most."""
    for name, day, tickets, terms in (
        ("Opening night", "2030-01-01", 500, {"maxTicketsPerPerson": 4, "holdSeconds": 600}),
        ("Matinee", "2030-01-02", 240, {"saleClosesAt": "2030-01-02T12:00:00Z"}),
        ("Chamber concert", "2030-01-05", 120, {"saleOpensAt": "2029-12-20T10:00:00Z"}),
        ("Last night", "2030-01-06", 60, {}),
        ("Gala", "2020-01-06", 60, {}),
    ):
        client.create_event(name=name, date=f"{day}T20:00:00Z", tickets=tickets, **terms)
    events = {event["name"]: event["id"] for event in client.get("/events").json()["data"]}
    for name, count in (("Opening night", 150), ("Matinee", 30), ("Last night", 30)):
        for number in range(count):
            buyer = f"{name}-{number}".replace(" ", "-")
            tickets = client.hold(
                events[name], 1 + number % 3 if name != "Last night" else 2, buyer
            )
            if number % 6:
                client.pay(tickets[0], buyer)
                for ticket in tickets[1:]:
                    client.pay(ticket, buyer)
    return events["Opening night"]


@pytest.mark.slow
@pytest.mark.skipif(
    not REWRITES_PAGES, reason="writes pictures, with HOLDFAST_TEST_WRITES_DOCUMENTS"
)
def test_the_pictures_are_written(page: BoxOffice, client: Client, database: Database) -> None:
    event = fill(client, database)
    for name, (width, height) in SIZES.items():
        screen = PHONE if "phone" in name else DESKTOP
        page.resize({**screen, "width": width, "height": height})
        if name == "box-office-list":
            page.show_list()
            page.wait_for_text("sold in the last")
        else:
            page.show_event(event)
            page.wait_for_text("Audit: all")
            page.wait_for("!!document.querySelector('.chart path.paid')")
        page.save_picture(IMAGES / f"{name}.png")


@pytest.mark.parametrize("name", SIZES)
def test_a_picture_has_its_size_and_is_shown(name: str) -> None:
    picture = (IMAGES / f"{name}.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == SIZES[name]
    assert f"images/{name}.png" in "".join(
        page.read_text() for page in (Path("README.md"), DOCS / "how-to" / "run-an-on-sale.md")
    )
