"""Programs that some tests need, such as nginx or Chromium.

Tests of a missing tool are skipped with its name. If ``CI`` is set, they fail.
"""

import os
import shutil
from typing import NoReturn

import pytest

# Debian installs servers outside the PATH of ordinary users.
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

CHROMIUM = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
)


def find_tool(*names: str, package: str | None = None) -> str:
    """Return the full path of a tool; skip or fail the test if it is missing.

    Args:
        names: its possible names, in order of preference.
        package: its Debian package, if that is not called like the first name.
    """
    path = next(filter(None, (shutil.which(name, path=PATH) for name in names)), None)
    if path is None:
        report_missing(f"{' or '.join(names)} is missing: apt-get install {package or names[0]}")
    return path


def report_missing(reason: str) -> NoReturn:
    """Skip the test, or fail it if ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def needs(is_available: object, reason: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs a tool."""
    return pytest.mark.needs(bool(is_available), reason)
