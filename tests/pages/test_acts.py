"""The box office: what an organizer does in it, while the event is selling."""

from pathlib import Path

from tests.support.box_office import BoxOffice, sell
from tests.support.client import Client
from tests.support.database import Database
from tests.support.services import RunningService, Starter

TOKEN = "the-organizers-own-token"  # noqa: S105 - used by tests only


def test_an_event_is_created_in_the_browsers_zone(
    page: BoxOffice, client: Client, database: Database
) -> None:
    page.show_list()
    page.press_button("New event")
    page.wait_for_text("Times are in Europe/Berlin.")
    page.enter("Name", "Gala")
    page.enter("Date", "2030-07-01T20:00")
    page.enter("Capacity", "300")
    page.enter("Opens", "2030-01-01T10:00")
    page.enter("Limit per person", "4")
    page.press_button("Create event")
    page.wait_for("document.querySelector('h1')?.textContent === 'Gala'")
    page.wait_for_text("Opens in")
    (event,) = client.get("/events").json()["data"]
    # Berlin has summer time in July.
    assert (event["date"], event["saleOpensAt"]) == ("2030-07-01T18:00:00Z", "2030-01-01T09:00:00Z")
    assert (event["totalTickets"], event["maxTicketsPerPerson"]) == (300, 4)
    assert (event["holdSeconds"], event["saleClosesAt"]) == (None, None)


def test_a_refused_event_says_in_words_what_to_do(page: BoxOffice, client: Client) -> None:
    client.create_event(name="Gala")
    page.show_list()
    page.press_button("New event")
    page.press_button("Create event")
    for missing in ("Enter a name.", "Enter a date.", "Enter a capacity."):
        page.wait_for_text(missing)
    page.enter("Name", "Gala")
    page.enter("Capacity", "10")
    page.enter("Date", "2030-03-31T02:30")  # skipped, because the clocks go forward
    page.press_button("Create event")
    page.wait_for_text("There is no such time in Europe/Berlin.")
    page.enter("Date", "2030-01-01T21:00")
    page.press_button("Create event")
    page.wait_for_text("There is an event with this name and date already. Change one of them.")
    page.enter("Name", "Matinee")
    page.enter("Opens", "2030-01-01T10:00")
    page.enter("Closes", "2030-01-01T09:00")
    page.press_button("Create event")
    page.wait_for_text("Opens must be before Closes.")
    page.enter("Capacity", "0")
    page.press_button("Create event")
    page.wait_for_text("Capacity must be a whole number from 1 to 2147483647.")
    assert client.get("/events").json()["meta"]["total"] == 1


def test_one_form_changes_an_event_while_it_sells(page: BoxOffice, client: Client) -> None:
    event = client.create_event(tickets=20, name="Gala", saleClosesAt="2029-12-31T12:34:56.789Z")
    page.show_event(event)
    page.enter("Name", "Gala, second night")
    page.enter("Capacity", "30")
    sell(client, event, "alice", 2)
    page.wait_for("document.querySelector('[data-part=paid]').textContent === '2'")
    # What was entered is still there, and a sale is no conflict.
    assert page.field("Capacity") == "30"
    page.enter("Hold", "600")
    page.press_button("Save")
    page.wait_for_text("Saved.")
    found = client.find_event(event)
    assert (found["name"], found["totalTickets"], found["holdSeconds"]) == (
        *("Gala, second night", 30),
        600,
    )
    # Untouched fields are not sent: the field has no seconds, the event keeps them.
    assert found["saleClosesAt"] == "2029-12-31T12:34:56.789000Z"
    page.enter("Capacity", "1")
    page.press_button("Save")
    page.wait_for_text("2 tickets are held or paid. Enter at least as many.")
    page.enter("Hold", "")
    page.enter("Capacity", "40")
    page.press_button("Save")
    page.wait_for_text("Saved.")
    assert (client.find_event(event)["holdSeconds"], page.number("total")) == (None, "40")


def test_two_browsers_do_not_overwrite_each_other(
    tmp_path: Path, page: BoxOffice, service: RunningService, client: Client
) -> None:
    event = client.create_event(tickets=20, name="Gala")
    with BoxOffice(tmp_path / "other", service) as other:
        page.show_event(event)
        other.show_event(event)
        other.set_hidden(True)  # its stream is closed, so that it does not know of the change
        other.enter("Capacity", "25")
        other.enter("Name", "Ball")
        page.enter("Capacity", "50")
        page.press_button("Save")
        page.wait_for_text("Saved.")
        other.press_button("Save")
        other.wait_for_text("Not saved: somebody else has changed this event meanwhile.")
        other.wait_for_text("Capacity is now 50")
        assert (client.find_event(event)["name"], client.find_event(event)["totalTickets"]) == (
            *("Gala", 50),
        )
        assert (other.field("Capacity"), other.field("Name")) == ("25", "Ball")
        other.press_button("Save")
        other.wait_for_text("Saved.")
        assert client.find_event(event)["totalTickets"] == 25
        # A form that nobody has touched follows, one that somebody edits says what has changed.
        page.wait_for("document.querySelector('h1').textContent === 'Ball'")
        assert page.field("Capacity") == "25"
        page.enter("Limit per person", "4")
        client.update_event(event, totalTickets=60)
        page.wait_for_text("Somebody else has changed this event: Capacity is now 60.")
        page.press_button("Discard")
        assert page.field("Limit per person") == ""


def test_a_sale_is_closed_after_one_question_and_reopened(page: BoxOffice, client: Client) -> None:
    event = client.create_event(tickets=20)
    page.show_event(event)
    page.press_button("Close the sale")
    page.wait_for_text("Nobody can reserve any more.")
    assert page.value("document.activeElement.textContent") == "Confirm"
    page.press_button("Cancel")
    assert page.value("document.activeElement.textContent") == "Close the sale"
    page.press_button("Close the sale")
    sell(client, event, "alice")  # the question stays while the event sells
    page.wait_for("document.querySelector('[data-part=paid]').textContent === '1'")
    assert client.find_event(event)["saleStatus"] == "open"
    page.press_button("Confirm")
    page.wait_for_text("The sale is closed.")
    assert client.find_event(event)["saleStatus"] == "closed"
    page.press_button("Reopen")
    page.wait_for_text("The sale is open again.")
    assert client.find_event(event)["saleClosesAt"] is None
    assert page.has_button("Close the sale")


def test_closing_clears_an_opening_still_to_come(page: BoxOffice, client: Client) -> None:
    event = client.create_event(saleOpensAt="2029-01-01T00:00:00Z")
    page.show_event(event)
    page.press_button("Close the sale")
    page.press_button("Confirm")
    page.wait_for_text("The sale is closed.")
    found = client.find_event(event)
    assert (found["saleStatus"], found["saleOpensAt"]) == ("closed", None)
    # Its own change is not taken for somebody else's.
    assert "Somebody else" not in page.text()
    assert page.field("Opens") == ""


def test_tickets_are_refunded_with_and_without_resale(page: BoxOffice, client: Client) -> None:
    event = client.create_event(tickets=20)
    sell(client, event, "alice", 1)
    page.show_event(event)
    page.press_button("Refund")
    page.press_button("Confirm")
    page.wait_for_text("Refunded. What came back is on sale again.")
    page.wait_for("document.querySelector('[data-part=available]').textContent === '20'")
    sell(client, event, "bob", 1)
    page.press_button("Refund")  # the list has followed
    page.value("document.querySelector('.question input').click()")
    page.press_button("Confirm")
    page.wait_for_text("Refunded and taken off sale: the capacity is smaller.")
    page.wait_for("document.querySelector('[data-part=total]').textContent === '19'")
    # The form has followed its own change.
    page.wait_for("[...document.querySelectorAll('[name=totalTickets]')].at(-1).value === '19'")
    assert client.find_event(event)["purchasedTickets"] == 0


def test_a_reservation_is_found_by_its_id_and_refunded(page: BoxOffice, client: Client) -> None:
    event, other = client.create_event(tickets=20), client.create_event(name="Matinee")
    reservation = sell(client, event, "alice", 3)
    (ticket,) = client.hold(event, user="bob")
    (foreign,) = client.hold(other)
    page.show_event(event)
    rows = "document.querySelectorAll('.tickets > li').length"
    page.wait_for(f"{rows} === 4")
    for text, message in (
        ("nonsense", "This is no id."),
        (event, "This event has no such ticket or reservation."),
        (foreign, "This ticket is of another event."),
    ):
        page.enter("Ticket or reservation id", text)
        page.press_button("Find")
        page.wait_for_text(message)
    page.enter("Ticket or reservation id", ticket)
    page.press_button("Find")
    page.wait_for(f"{rows} === 1")
    assert "held" in page.text(".tickets")
    page.enter("Ticket or reservation id", reservation)
    page.press_button("Find")
    page.wait_for(f"{rows} === 3")
    page.press_button("Refund reservation")
    page.wait_for_text("Refund 3 paid tickets of this reservation?")
    page.press_button("Confirm")
    page.wait_for("document.querySelector('.tickets').innerText.match(/refunded/g)?.length === 3")
    assert client.find_event(event)["availableTickets"] == 19
    # A second refund, in another window, is refused in words.
    assert not page.has_button("Refund reservation")


def test_the_tickets_are_filtered_and_turned_page_by_page(page: BoxOffice, client: Client) -> None:
    event = client.create_event(tickets=30)
    for _ in range(2):
        sell(client, event, "alice", 10)
    client.hold(event, 2, user="bob")
    page.show_event(event)
    page.wait_for_text("1 to 10 of 22")
    page.press_button("Older")
    page.wait_for_text("11 to 20")
    page.press_button("Older")
    page.wait_for_text("21 to 22")
    page.press_button("Newer")
    page.press_button("Newer")
    page.wait_for_text("1 to 10 of 22")
    page.enter("Status", "reserved")
    page.wait_for_text("1 to 2 of 2")
    client.hold(event, 1, user="carol")
    page.wait_for_text("1 to 3 of 3")


def test_without_the_token_one_watches_and_cannot_act(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    service = start(database, organizer_token=TOKEN)
    with service.client() as client, BoxOffice(tmp_path / "browser", service) as page:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        event = client.create_event(tickets=20)
        page.show_list()
        page.wait_for_text("20 of 20 available", ".events")
        assert not page.has_button("New event")
        page.show_event(event)
        sell(client, event, "alice", 2)
        page.wait_for_text("2 tickets paid", ".changes")
        assert not any(map(page.has_button, ("Close the sale", "Save", "Refund", "Find")))
        assert [path for path in page.requested_paths() if "/tickets" in path] == []
        page.enter("Organizer token", "wrong")
        page.press_button("Use token")
        page.wait_for_text("The token is wrong. Enter it again.", "header")
        page.enter("Organizer token", TOKEN)
        page.press_button("Use token")
        page.wait_for_text("1 to 2 of 2")
        assert page.has_button("Close the sale")
        assert page.value("Object.values(sessionStorage)") == [TOKEN]
        assert page.value("Object.values(localStorage)") == []
        page.call("Page.reload")
        page.press_button("Refund")
        page.press_button("Confirm")
        page.wait_for_text("Refunded.")
        # A token that is not valid any more is forgotten, and another asked for.
        page.value("sessionStorage.setItem('organizer token', 'old')")
        page.call("Page.reload")
        page.wait_for_text("The token is wrong. Enter it again.", "header")
        page.wait_for("!sessionStorage.length && !document.querySelector('.tickets')")
