"""Schemathesis: requests made up from the description, good and bad, and none finds it untrue."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.services import Starter

TOKEN = "the-organizers-own-token"  # noqa: S105 - of these tests alone
COMMAND = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


def try_service(database: Database, start: Starter, folder: Path, examples: int) -> str:
    """Have Schemathesis try a service with a sale, always with the same seed.

    Returns:
        What it found; '' for nothing.
    """
    service = start(database, organizer_token=TOKEN)
    with service.client() as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        event = client.create_event(tickets=100_000)
        reserved = [client.reserve(event, quantity=2).json()[0] for _ in range(60)]
    write_dictionary(folder / "events.txt", [event])
    write_dictionary(folder / "tickets.txt", [ticket["id"] for ticket in reserved[:30]])
    whole = [ticket["reservationId"] for ticket in reserved[30:]]
    write_dictionary(folder / "reservations.txt", whole)
    done = subprocess.run(
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
    return "" if done.returncode == 0 else done.stdout + done.stderr


def write_dictionary(path: Path, words: Iterable[str]) -> None:
    """Write words as Schemathesis reads them."""
    path.write_text("\n".join(f'"{word}"' for word in words))


def test_hundreds_of_requests_find_nothing(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    assert try_service(database, start, tmp_path, examples=5) == ""
    tried = "status not in ('reserved', 'expired')"
    assert int(database.psql(f"select count(*) from ticket_allocations where {tried}")[0]) > 0


@pytest.mark.slow
def test_thousands_of_requests_find_nothing(
    database: Database, start: Starter, tmp_path: Path
) -> None:
    assert try_service(database, start, tmp_path, examples=200) == ""
