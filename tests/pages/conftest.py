"""Fixtures: the box office of the service under test."""

from collections.abc import Iterator

import pytest

from tests.support.box_office import BoxOffice
from tests.support.services import RunningService


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoxOffice]:
    """A browser for all tests; at its end its network log is checked."""
    with BoxOffice(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser: BoxOffice, service: RunningService) -> Iterator[BoxOffice]:
    """The browser, for one test with its service; its console must stay empty."""
    with browser.use(service) as page:
        yield page
