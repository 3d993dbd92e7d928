"""Fixtures: the box office of the service under test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box_office import BoxOffice
from tests.support.services import RunningService


@pytest.fixture
def page(tmp_path: Path, service: RunningService) -> Iterator[BoxOffice]:
    """A browser for the box office; at its end its console and its network log are checked."""
    with BoxOffice(tmp_path / "browser", service) as page:
        yield page
