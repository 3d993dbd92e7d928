"""The box office: what it shows, live, of events as they sell."""

import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service import limits
from tests.support.box_office import PHONE, BoxOffice, sell
from tests.support.client import Client
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.services import RunningService, Starter
from tests.support.waiting import wait_until

MARKUP = "<img src=x onerror=\"document.title='Run'\"><script>document.title = 'Run'</script>"


IDS_ARE_BELOW = """
[...document.querySelectorAll(".tickets > li")].map((row) => {
    const [status, ids] = [".state", ".ids"].map(
        (part) => row.querySelector(part).getBoundingClientRect());
    return ids.left === status.left && ids.top >= status.bottom;
})"""


def test_the_list_shows_each_event_and_follows_its_sale(page: BoxOffice, client: Client) -> None:
    gala = client.create_event(tickets=20, name="Gala", date="2030-02-01T20:00:00Z")
    client.create_event(name="Matinee", saleClosesAt="2029-01-01T00:00:00Z")
    client.create_event(name="Ball", saleOpensAt="2029-01-01T00:00:00Z")
    client.create_event(name="Of last year", date="2020-01-01T20:00:00Z")
    client.create_event(name="Of the year before", date="2019-01-01T20:00:00Z")
    sell(client, gala, "alice", 2)
    client.hold(gala, 3, user="bob")
    page.show_list()
    rows = "[...document.querySelectorAll('{} > li')].map((row) => row.innerText)"
    upcoming, past = (rows.format(f"[data-part={part}]") for part in ("upcoming", "past"))
    page.wait_for(f"{upcoming}.length === 3")
    matinee, ball, last = page.value(upcoming)  # by date, then in the order of their creation
    assert "Opens in" in ball
    assert "On sale, closes in" in matinee
    assert "Gala" in last
    assert "2 paid, 3 held, 15 of 20 available" in last
    # A bar for the eyes, its numbers for a screen reader.
    assert page.value("document.querySelectorAll('.bar')[2].ariaLabel").startswith("2 paid")
    sell(client, gala, "carol", 4)
    page.wait_for_text("6 paid, 3 held, 11 of 20 available")
    page.wait_for("/4 sold in the last \\d+ s/.test(document.body.innerText)")
    assert page.value("document.querySelector('[data-part=past]').children.length") == 0
    page.click(".past summary")
    page.wait_for(f"{past}.length === 2")
    assert "Of last year" in page.value(past)[0]
    page.enter("Search", "ALA")
    page.wait_for(f"{upcoming}.length === 1 && {past}.length === 0")
    page.wait_for_text("1 event found")
    page.enter("Search", "nothing")
    page.wait_for_text("No upcoming event has this in its name.")


def test_a_link_leads_to_an_event_and_back(page: BoxOffice, client: Client) -> None:
    client.create_event(name="Gala")
    page.show_list()
    page.click("[data-part=upcoming] a")
    page.wait_for("document.activeElement.tagName === 'H1'")
    page.wait_for("document.title === 'Gala · Box office'")
    page.value("history.back()")
    page.wait_for("document.querySelector('h1').textContent === 'Events'")
    page.value("location.hash = 'event=018f0000-0000-7000-8000-000000000001'")
    page.wait_for_text("There is no such event.")


def test_an_event_shows_what_sells_as_it_sells(page: BoxOffice, client: Client) -> None:
    event = client.create_event(tickets=20, maxTicketsPerPerson=4, holdSeconds=600)
    page.show_event(event)
    area = "document.querySelector('.chart path.paid')?.getAttribute('d')"
    before = page.value(area)
    sell(client, event, "alice", 3)
    client.hold(event, 2, user="bob")
    page.wait_for_text("2 tickets reserved", ".changes")
    page.wait_for_text("3 tickets paid", ".changes")
    page.wait_for_text("Event created with 20 tickets", ".changes")
    page.wait_for(f"{area} !== {before!r}")
    page.wait_for(
        "document.querySelector('.chart svg').ariaLabel.endsWith('3 paid and 2 held of 20')"
    )
    numbers = [page.number(name) for name in ("available", "held", "paid", "rate", "total")]
    assert numbers == ["15", "2", "3", "3", "20"]
    page.wait_for_text("1 to 5 of 5")
    assert "10 min" in page.text(".terms")
    assert "4 tickets" in page.text(".terms")
    # The figures behind the chart, for those who do not see it.
    page.click(".figures summary")
    assert page.value("document.querySelector('tbody').lastChild.textContent").endswith("32")
    client.refund(client.list_event_tickets(event, status="purchased").json()["data"][0]["id"])
    page.wait_for_text("1 ticket refunded", ".changes")
    client.transfer(client.hold(event, user="carol")[0], "dave", "carol")
    page.wait_for_text("A ticket has a new owner", ".changes")
    page.wait_for("document.querySelector('[data-part=rate]').textContent === '2'")


def test_a_sale_that_opens_by_the_clock_is_shown(page: BoxOffice, client: Client) -> None:
    opens_at = datetime.now(UTC) + timedelta(seconds=2.5)
    event = client.create_event(saleOpensAt=opens_at.isoformat())
    page.show_event(event)
    page.wait_for_text("Opens in")
    # The stream says nothing of it.
    page.wait_for("/^On sale$/m.test(document.querySelector('.acts').innerText)")


def test_the_line_for_psql_shows_the_same(
    page: BoxOffice, client: Client, database: Database
) -> None:
    event = client.create_event(tickets=20, name="Gala")
    sell(client, event, "alice", 3)
    page.show_event(event)
    line = page.text("[data-part=psql]")
    shown = subprocess.run(
        ["/bin/bash", "-c", line.replace("holdfast", f"{sys.executable} -m service", 1)],
        cwd=ROOT,
        env={"DATABASE_URL": database.dsn, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "purchased_tickets      | 3" in shown.stdout


def test_markup_in_a_name_stays_text(page: BoxOffice, client: Client) -> None:
    event = client.create_event(name=MARKUP)
    page.show_list()
    page.wait_for_text(MARKUP)
    page.show_event(event)
    assert page.text("h1") == MARKUP
    assert page.field("Name") == MARKUP
    client.update_event(event, name=f"{MARKUP} again")
    page.wait_for_text(f"{MARKUP} again", "h1")
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.title") == f"{MARKUP} again · Box office"


def test_a_stream_that_ends_is_shown_and_healed(
    page: BoxOffice, service: RunningService, client: Client
) -> None:
    event = client.create_event(tickets=20)
    page.show_event(event)
    page.wait_for_text("Live", "header")
    service.state.watchers.close()  # as at a shutdown: streams end, and new ones are refused
    page.wait_for_text("Connection lost, trying again", "header")
    sell(client, event, "alice", 2)
    service.state.watchers.closed = False
    page.wait_for_text("Live", "header")
    page.wait_for("document.querySelector('[data-part=paid]').textContent === '2'")
    page.wait_for_text("2 tickets paid", ".changes")


@pytest.mark.slow
def test_a_stream_that_dies_without_a_sign_is_healed(
    page: BoxOffice, service: RunningService, client: Client
) -> None:
    event = client.create_event(tickets=20)
    page.show_event(event)
    wait_until(lambda: service.state.watchers.count == 1)
    # It gets no messages from here on, and the connection stays open.
    (watched,) = service.state.watchers._watched_events.values()
    for watcher in watched.watchers:
        watcher.version = limits.MAX_BIGINT
    sell(client, event, "alice", 2)
    # The page looks after 20 s of silence, as long as a test waits for one thing.
    with suppress(AssertionError):
        page.wait_for("document.querySelector('[data-part=paid]').textContent === '2'")
    page.wait_for("document.querySelector('[data-part=paid]').textContent === '2'")
    # It has opened another stream.
    page.wait_for_text("Live", "header")
    sell(client, event, "bob", 3)
    page.wait_for("document.querySelector('[data-part=paid]').textContent === '5'")


def test_a_tab_in_the_background_costs_no_stream(
    page: BoxOffice, service: RunningService, client: Client
) -> None:
    event = client.create_event(tickets=20)
    page.show_event(event)
    watchers = service.state.watchers
    wait_until(lambda: watchers.count == 1)
    page.set_hidden(True)
    wait_until(lambda: watchers.count == 0)
    sell(client, event, "alice", 2)
    page.set_hidden(False)
    page.wait_for_text("2 tickets paid", ".changes")
    wait_until(lambda: watchers.count == 1)
    page.value("location.hash = ''")
    wait_until(lambda: watchers.count == 0)


def test_the_audit_is_asked_when_the_page_opens_and_on_a_click(
    tmp_path: Path, unbalanced_database: Database, start: Starter
) -> None:
    service = start(unbalanced_database)
    with service.client() as client, BoxOffice(tmp_path / "browser", service) as page:
        event = client.create_event(tickets=20)
        page.show_event(event)
        page.wait_for("/^Audit: all \\d+ checks are right.$/m.test(document.body.innerText)")
        sell(client, event, "alice", 2)
        page.wait_for_text("2 tickets paid", ".changes")
        unbalanced_database.psql("update events set purchased_tickets = 1")
        audits = [path for path in page.requested_paths() if path.endswith("/audit")]
        assert len(audits) == 1
        page.press_button("Check again")
        page.wait_for("/^Audit: \\d+ checks of \\d+ failed:$/m.test(document.body.innerText)")
        page.wait_for_text("purchased = its tickets: expected 2, found 1")


def test_the_pages_fit_a_phone(page: BoxOffice, client: Client) -> None:
    name = "A very long name of an event without an end " * 4 + "W" * 60
    event = client.create_event(tickets=2_000_000_000, name=name)
    sell(client, event, "alice", 2)
    client.hold(event, user="bob")
    page.resize(PHONE)
    page.show_list()
    page.press_button("New event")
    page.wait_for_text("Times are in")
    assert page.value("document.documentElement.scrollWidth") == 360
    page.show_event(event)
    page.press_button("Refund")
    page.press_button("Close the sale")
    page.wait_for("!!document.querySelector('.chart path')")
    assert page.value("document.documentElement.scrollWidth") == 360
    # The ids stand below the status, with a button, without one, and with a question.
    assert page.value(IDS_ARE_BELOW) == [True, True, True]


def test_the_waiting_list_is_shown_in_its_order(page: BoxOffice, client: Client) -> None:
    event = client.create_event(tickets=3, name="Gala")
    reservation = sell(client, event, "owen", 3, pays=False)
    page.show_event(event)
    page.wait_for_text("Nobody waits.")
    for user, quantity in (("alice", 2), ("bob", 1)):
        client.join_line(event, quantity, user)
    page.wait_for("/2 tickets, since .*\\n1 ticket, since/.test(document.body.innerText)")
    page.wait_for("document.querySelector('.bar').ariaLabel.includes('3 held, 3 waiting, 0 of 3')")
    page.wait_for_text("Somebody joined the waiting list")
    client.cancel_reservation(reservation, "owen")
    page.wait_for_text("3 tickets offered to the waiting list")
    page.wait_for_text("Nobody waits.")
    page.show_list()
    client.join_line(event, 1, "carol")
    page.wait_for_text("0 paid, 3 held, 1 waiting, 0 of 3 available")
