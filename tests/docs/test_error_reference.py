"""The error reference has exactly the codes of the service, with what the service sends."""

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
SECTIONS = dict(re.findall(r"^### `(\w+)`\n\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def all_refusals() -> dict[str, list[Refusal]]:
    """Return the refusals of the service by code."""
    by_code: dict[str, list[Refusal]] = defaultdict(list)
    of_routes = [
        refusal
        for endpoints in ROUTES.values()
        for endpoint in endpoints.values()
        for refusal in endpoint.all_refusals(settings_for_tests(organizer_token="secret"))
    ]
    for refusal in [*vars(refusals).values(), *of_routes]:
        if isinstance(refusal, Refusal):
            by_code[refusal.code].append(refusal)
    return by_code


REFUSALS = all_refusals()


def test_the_page_has_a_row_and_a_section_for_every_code() -> None:
    statuses = {code: str(same_code[0].status) for code, same_code in REFUSALS.items()}
    rows = re.findall(r"^\| (\d{3}) \| \[`(\w+)`\]", PAGE, re.MULTILINE)
    assert {code: status for status, code in rows} == statuses
    assert {code: text[:3] for code, text in SECTIONS.items()} == statuses


@pytest.mark.parametrize("code", REFUSALS)
def test_the_section_of_a_code_is_complete(code: str) -> None:
    text = " ".join(SECTIONS[code].split())
    assert text.count("- Client: ") == 1
    assert text.count("- Operator: ") == 1
    for refusal in REFUSALS[code]:
        assert refusal.error in text
        assert all(name in text for name in refusal.headers)


@pytest.mark.parametrize("code", REFUSALS)
def test_the_example_of_a_code_is_a_real_response(code: str) -> None:
    (example,) = re.findall(r"^```json\n(.*?)\n```$", SECTIONS[code], re.MULTILINE | re.DOTALL)
    bodies = []
    for refusal in REFUSALS[code]:
        if refusal.example_details:
            refusal = refusal.with_details(refusal.example_details)
        bodies.append(bytes(refuse(refusal).body).decode())
    assert example in bodies
