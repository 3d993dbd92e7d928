"""A batch that is committed but whose rows cannot be read has an unknown outcome, not a 500."""

from pathlib import Path

import pytest

from tests.support.client import code
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.sql_copies import copy_sql


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # No row for a request.
        ("order by decided.request, new_tickets.position;", "where decided.request = 0;"),
        # A column that a ticket does not have.
        ("    new_tickets.*\nfrom decided", "    new_tickets.*,\n    1 as more\nfrom decided"),
    ],
    ids=["a request without a row", "an unknown column"],
)
def test_a_committed_batch_that_cannot_be_read_is_outcome_unknown(
    database: Database, start: Starter, tmp_path: Path, old: str, new: str
) -> None:
    folder = copy_sql(tmp_path, ("reserve_tickets.sql", old, new))
    with start(database, sweeps=False, sql_dir=folder).client() as client:
        event = client.create_event()
        assert code(client.reserve(event)) == (503, "OUTCOME_UNKNOWN")
        # The ticket is reserved, so a 500 would be wrong: it means that nothing has changed.
        assert client.find_event(event)["reservedTickets"] == 1
