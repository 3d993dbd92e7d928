"""Accessibility of the box office: axe-core finds no violation, and the keyboard is enough."""

import json
from pathlib import Path

import pytest

from tests.support.box_office import PHONE, BoxOffice, sell
from tests.support.client import Client
from tests.support.registry_packages import run
from tests.support.tools import find_tool

INSTALL = "npm init -y && npm install --ignore-scripts axe-core@~4.14.1"

# Rules of the W3C's guidelines at the levels A and AA, and what axe-core calls best practices.
CHECK = """
axe.run().then(({violations}) => { window.violations = violations.map(({id, nodes}) =>
    `${id}: ${nodes.map((node) => node.html).join(" ")}`); });
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core."""
    find_tool("npm")
    folder = tmp_path_factory.mktemp("axe")
    run(INSTALL, folder)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def violations(page: BoxOffice, axe: str) -> object:
    """Return what axe-core has against the page as it is now."""
    page.value(f"delete window.violations; {axe}; 0")
    page.value(f"{CHECK}; 0")
    page.wait_for("'violations' in window")
    return page.value("window.violations")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(page: BoxOffice, client: Client, axe: str, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=features)
    event = client.create_event(tickets=20, saleClosesAt="2029-12-01T00:00:00Z")
    client.create_event(name="Past", date="2020-01-01T00:00:00Z", saleClosesAt="now")
    sell(client, event, "alice", 2)
    client.hold(event, 3, user="bob")
    page.show_list()
    page.click(".past summary")
    page.press_button("New event")
    page.press_button("Create event")
    page.wait_for_text("Enter a name.")
    page.wait_for_text("2 paid")
    assert violations(page, axe) == []
    page.show_event(event)
    page.press_button("Refund")
    page.press_button("Close the sale")
    page.click(".figures summary")
    page.enter("Capacity", "1")
    page.press_button("Save")
    page.wait_for_text("Enter at least as many.")
    page.wait_for_text("Audit: all")
    assert violations(page, axe) == []
    page.resize(PHONE)
    assert violations(page, axe) == []


def test_axe_would_find_one(page: BoxOffice, axe: str) -> None:
    page.show_list()
    page.value("document.querySelector('.search label').remove()")
    assert "label: " in json.dumps(violations(page, axe))


def test_a_sale_is_closed_with_the_keyboard_alone(
    page: BoxOffice, client: Client, tmp_path: Path
) -> None:
    event = client.create_event()
    page.show_event(event)
    focused = "document.activeElement.textContent"
    for _ in range(10):
        page.press("Tab")
        if page.value(focused) == "Close the sale":
            break
    page.press("Enter")
    page.wait_for(f"{focused} === 'Confirm'")
    page.press("Enter")
    page.wait_for_text("The sale is closed.")
    assert client.find_event(event)["saleStatus"] == "closed"


def test_nothing_moves_for_those_who_want_less_motion(page: BoxOffice, client: Client) -> None:
    client.create_event()
    moves = "getComputedStyle(document.querySelector('.bar i')).transitionDuration"
    page.show_list()
    page.wait_for("!!document.querySelector('.bar')")
    assert page.value(moves) == "0.4s"
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.call("Emulation.setEmulatedMedia", features=features)
    assert page.value(moves) == "0s"
