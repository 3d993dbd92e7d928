"""Generated clients: what public generators make of the description compiles, and sells.

The commands and the code are those of docs/how-to/generate-a-client.md, in its order.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.paths import DOCS
from tests.support.services import Starter

TOKEN = "the-organizers-own-token"  # noqa: S105 - of these tests alone
PAGE = (DOCS / "how-to" / "generate-a-client.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SALES = Path(__file__).with_name("clients")
NO_REGISTRY = re.compile(r"from versions: none|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT")
"""What pip and npm say when there is nobody to ask, and not when there is no such version."""

CHECKS = {
    "Python": [
        # Of what is generated nothing is told: not all that the generator writes is strict.
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
"""What is done in the end: the code is checked, and the sale is run."""


def run(command: str, folder: Path, url: str) -> str:
    """Run lines of bash, as if the folder's .venv were activated, and return what they print."""
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and " install " in command and (found := NO_REGISTRY.search(done.stderr)):
        pytest.skip(f"the generator could not be had: {found[0]}")
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def follow(language: str, folder: Path, url: str) -> None:
    """Do what the page says of a language: run what is a command, and keep what is code."""
    printed = ""
    for kind, text in FENCED.findall(PAGE.partition(f"## {language}\n")[2].partition("\n## ")[0]):
        text = text.replace("http://localhost:8000", url)
        if kind == "sh":
            printed = run(text, folder, url)
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
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    service = start(database, organizer_token=TOKEN)
    with service.client() as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        bought = client.create_event(tickets=1)
        follow(language, tmp_path, service.url)
        assert client.event(bought)["purchasedTickets"] == 1

        shutil.copytree(SALES, tmp_path, dirs_exist_ok=True)
        *checks, sale = CHECKS[language]
        for check in checks:
            run(check, tmp_path, service.url)
        sold = json.loads(run(sale, tmp_path, service.url))
        shown = client.event(sold["id"])
        assert shown["name"] == f"Sold from {language}"
        assert (shown["reservedTickets"], shown["purchasedTickets"]) == (3, 3)
        assert shown["version"] == sold["version"]
