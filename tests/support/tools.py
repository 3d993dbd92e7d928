"""Tools: programs of the machine that some tests need, such as nginx or Chromium.

Where one is missing its tests are skipped and the skip names it; with ``CI`` set they fail.
"""

import os
import shutil
from typing import NoReturn

import pytest

# Servers are where only root has its path.
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

CHROMIUM = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
)


def find_tool(*names: str, package: str | None = None) -> str:
    """Return the full path of a tool, by the first of its names that is found.

    Args:
        names: what it may be called.
        package: the Debian package that has it; by default it is called like the tool.
    """
    path = next(filter(None, (shutil.which(name, path=PATH) for name in names)), None)
    if path is None:
        report_missing(f"{' or '.join(names)} is missing: apt-get install {package or names[0]}")
    return path


def report_missing(reason: str) -> NoReturn:
    """Skip the test for want of a tool, or fail it where ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def needs(found: object, reason: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs a tool, which has been found or not."""
    return pytest.mark.needs(bool(found), reason)
