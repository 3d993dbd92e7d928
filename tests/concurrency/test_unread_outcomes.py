"""A batch that is committed but whose rows cannot be read: its outcome is unknown, not an error."""

import shutil
from pathlib import Path

import pytest

from service.settings import resource
from tests.support.client import code
from tests.support.database import Database
from tests.support.services import Starter


@pytest.mark.parametrize(
    ("sql", "instead"),
    [
        # No row for a request, which the service asserts that there is.
        ("order by line.request, reserved.position;", "where line.request = 0;"),
        # Columns that are not those of a ticket.
        ("    reserved.*\nfrom line", "    reserved.*,\n    1 as more\nfrom line"),
    ],
    ids=["a request without a row", "a column too many"],
)
def test_a_committed_batch_that_cannot_be_read_is_outcome_unknown(
    database: Database, start: Starter, tmp_path: Path, sql: str, instead: str
) -> None:
    shutil.copytree(resource("sql"), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "reserve_tickets.sql"
    assert sql in file.read_text()
    file.write_text(file.read_text().replace(sql, instead))
    with start(database, sweeps=False, sql_dir=tmp_path).client() as client:
        event = client.create_event()
        assert code(client.reserve(event)) == (503, "OUTCOME_UNKNOWN")
        # The ticket is reserved all the same: a 500 would have said that nothing was done.
        assert client.find_event(event)["reservedTickets"] == 1
