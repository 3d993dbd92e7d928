"""The OpenAPI description passes the default rules of public linters.

Exceptions, with their reasons, are in the configuration files of ``linters``.
"""

import json
import shutil
from pathlib import Path

import pytest

from service.web.openapi import describe
from service.web.responses import encode
from service.web.routes import ROUTES
from tests.support.registry_packages import run
from tests.support.services import settings_for_tests
from tests.support.tools import find_tool

LINTERS = Path(__file__).with_name("linters")
INSTALL = (
    "npm init -y && npm install --ignore-scripts"
    " @redocly/cli@~2.77.0 @stoplight/spectral-cli@~6.16.0"
)
# Redocly also exits with 0 after warnings, so the test reads its report.
REDOCLY = "npx redocly lint openapi.json --format json || true"
NO_TRAFFIC = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
SPECTRAL = "npx spectral lint openapi.json --quiet --format json --fail-severity hint || true"


@pytest.fixture(scope="module")
def linters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both linters and their configuration."""
    find_tool("npm")
    folder = tmp_path_factory.mktemp("linters")
    shutil.copytree(LINTERS, folder, dirs_exist_ok=True)
    run(INSTALL, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"organizer_token": "secret"}])
def test_the_description_passes_redocly_and_spectral(
    linters: Path, settings: dict[str, str]
) -> None:
    description = encode(describe(ROUTES, settings_for_tests(**settings)))
    (linters / "openapi.json").write_bytes(description)
    report = json.loads(run(REDOCLY, linters, **NO_TRAFFIC))
    assert report["problems"] == []
    assert report["totals"]["ignored"] == 1, "an exception is no longer needed"
    assert json.loads(run(SPECTRAL, linters)) == []
