"""Clients generated from the OpenAPI description by public generators compile and sell.

The commands and the code are those of docs/how-to/generate-a-client.md, in its order.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.paths import DOCS
from tests.support.registry_packages import run
from tests.support.services import Starter
from tests.support.tools import find_tool

TOKEN = "the-organizers-own-token"  # noqa: S105 - used by tests only
PAGE = (DOCS / "how-to" / "generate-a-client.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SALES = Path(__file__).with_name("clients")

# The commands that check the code, and the one that runs the sale.
CHECKS = {
    "Python": [
        # "silent" hides errors in the generated code, which is not strict everywhere.
        f"{sys.executable} -m mypy --strict --follow-imports silent "
        "--python-executable .venv/bin/python buy.py sale.py",
        "python -m compileall -q holdfast_client",
        f"python sale.py $URL {TOKEN}",
    ],
    "TypeScript": [
        "npx tsc --strict --noUncheckedIndexedAccess --module nodenext --target es2022 *.ts",
        f"node sale.js $URL {TOKEN}",
    ],
}


def follow(language: str, folder: Path, url: str) -> None:
    """Follow the page's section on a language: run the commands and save the code."""
    printed = ""
    for kind, text in FENCED.findall(PAGE.partition(f"## {language}\n")[2].partition("\n## ")[0]):
        text = text.replace("http://localhost:8000", url)
        if kind == "sh":
            printed = run(text, folder, URL=url)
        elif kind:
            (folder / {"python": "buy.py", "ts": "buy.ts"}[kind]).write_text(text)
        else:
            assert printed == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "programs"), [("Python", ["python3"]), ("TypeScript", ["node", "npm"])]
)
def test_a_generated_client_compiles_and_sells(
    language: str, programs: list[str], database: Database, start: Starter, tmp_path: Path
) -> None:
    for program in programs:
        find_tool(program)
    service = start(database, organizer_token=TOKEN)
    with service.client() as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        event_id = client.create_event(tickets=1)
        follow(language, tmp_path, service.url)
        assert client.find_event(event_id)["purchasedTickets"] == 1

        shutil.copytree(SALES, tmp_path, dirs_exist_ok=True)
        *checks, sale = CHECKS[language]
        for check in checks:
            run(check, tmp_path, URL=service.url)
        printed = json.loads(run(sale, tmp_path, URL=service.url))
        event = client.find_event(printed["id"])
        assert event["name"] == f"Sold from {language}"
        assert (event["reservedTickets"], event["purchasedTickets"]) == (3, 3)
        assert event["version"] == printed["version"]
