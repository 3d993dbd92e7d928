"""Schemathesis generates valid and invalid requests from the OpenAPI description.

None of them may show that the service differs from its description.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.services import Starter

TOKEN = "the-organizers-own-token"  # noqa: S105 - used by tests only
COMMAND = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


def run_schemathesis(database: Database, start: Starter, folder: Path, examples: int) -> str:
    """Run Schemathesis with a fixed seed against a service that has a sale.

    Returns:
        Its output if it found an error, else ''.
    """
    service = start(database, organizer_token=TOKEN)
    with service.client() as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        event = client.create_event(tickets=100_000)
        reserved = [client.reserve(event, quantity=2).json()[0] for _ in range(60)]
        lines = [client.create_event(name=f"line {number}") for number in range(10)]
        entries = [client.join_line(line).json()["id"] for line in lines]
    write_dictionary(folder / "events.txt", [event])
    write_dictionary(folder / "entries.txt", entries)
    write_dictionary(folder / "tickets.txt", [ticket["id"] for ticket in reserved[:30]])
    reservations = [ticket["reservationId"] for ticket in reserved[30:]]
    write_dictionary(folder / "reservations.txt", reservations)
    process = subprocess.run(
        [
            *(COMMAND, "--config-file", shutil.copy(CONFIGURATION, folder)),
            *("run", f"{service.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
            *("--max-examples", str(examples), "--seed", "1", "--generation-database", "none"),
            *("--continue-on-failure", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if process.returncode == 0 else process.stdout + process.stderr


def write_dictionary(path: Path, words: Iterable[str]) -> None:
    """Write words in the format of a Schemathesis dictionary."""
    path.write_text("\n".join(f'"{word}"' for word in words))


def test_hundreds_of_generated_requests_find_no_error(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    assert run_schemathesis(database, start, tmp_path, examples=5) == ""
    changed = "status not in ('reserved', 'expired')"
    assert int(database.psql(f"select count(*) from ticket_allocations where {changed}")[0]) > 0


@pytest.mark.slow
def test_thousands_of_generated_requests_find_no_error(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    assert run_schemathesis(database, start, tmp_path, examples=200) == ""
