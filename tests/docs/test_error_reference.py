"""The errors as a document: every code that there is and no other, as the service tells it."""

import re
from collections import defaultdict

import pytest

from service import refusals
from service.refusals import Refusal
from service.web.responses import refuse
from service.web.routes import ROUTES
from tests.support.paths import DOCS
from tests.support.services import settings_for_tests

PAGE = (DOCS / "reference" / "errors.md").read_text()
LINES = re.findall(r"^\| (\d{3}) \| \[`(\w+)`\]", PAGE, re.M)
SECTIONS = {
    code: (int(status), " ".join(text.split()))
    for code, status, text in re.findall(r"^### `(\w+)`\n\n(\d+)(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
}


def all_refusals() -> dict[str, list[Refusal]]:
    """Return whatever the service may refuse with, by code."""
    by_code: dict[str, list[Refusal]] = defaultdict(list)
    of_routes = [
        one
        for path in ROUTES.values()
        for endpoint in path.values()
        for one in endpoint.all_refusals(settings_for_tests(organizer_token="secret"))
    ]
    for one in [*vars(refusals).values(), *of_routes]:
        if isinstance(one, Refusal):
            by_code[one.code].append(one)
    return by_code


REFUSALS = all_refusals()


def test_every_code_is_told_with_its_status_and_no_other() -> None:
    statuses = {code: one.status for code, found in REFUSALS.items() for one in found}
    assert {code: int(status) for status, code in LINES} == statuses
    assert {code: status for code, (status, _) in SECTIONS.items()} == statuses


@pytest.mark.parametrize("code", REFUSALS)
def test_a_code_is_told_whole(code: str) -> None:
    _, told = SECTIONS[code]
    assert told.count("- Client: ") == 1
    assert told.count("- Operator: ") == 1
    for one in REFUSALS[code]:
        assert one.error in told
        assert all(name in told for name in one.headers)


@pytest.mark.parametrize("code", REFUSALS)
def test_an_example_is_what_is_sent(code: str) -> None:
    (example,) = re.findall("```json (.*?) ```", SECTIONS[code][1])
    assert example in [
        bytes(refuse(one.because(details) if (details := one.such_as) else one).body).decode()
        for one in REFUSALS[code]
    ]
