"""The reference of HTTP, where the description of the routes cannot hold it to the service."""

import re

from tests.support.client import Client
from tests.support.paths import DOCS

REFERENCE = (DOCS / "reference" / "http.md").read_text()


def test_it_lists_the_checks_of_an_audit(client: Client) -> None:
    listed = REFERENCE.partition("## The checks of an audit")[2].partition("\n## ")[0]
    told = client.audit(client.create_event()).json()["checks"]
    assert sorted(re.findall(r"^\| `([^`]+)`", listed, re.M)) == [one["name"] for one in told]
