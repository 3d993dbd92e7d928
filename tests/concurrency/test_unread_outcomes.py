"""A batch that is committed but whose rows cannot be read has an unknown outcome, not a 500."""

from pathlib import Path

import pytest

from tests.support.client import code
from tests.support.database import Database
from tests.support.services import Starter
from tests.support.sql_copies import copy_sql

UNREADABLE_TIMES = """true
    ) as statement_timeout,
    set_config('DateStyle', 'German', true) as date_style"""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        # Times in a format that the service does not read.
        ("limit_waits", "true\n    ) as statement_timeout", UNREADABLE_TIMES),
        # No row for a request.
        (
            "reserve_tickets",
            "order by decided.request, new_tickets.position;",
            "where decided.request = 0;",
        ),
        # A column that a ticket does not have.
        (
            "reserve_tickets",
            "    new_tickets.*\nfrom decided",
            "    new_tickets.*,\n    1 as more\nfrom decided",
        ),
    ],
    ids=["unreadable times", "a request without a row", "an unknown column"],
)
def test_a_committed_batch_that_cannot_be_read_is_outcome_unknown(
    database: Database, start: Starter, tmp_path: Path, file: str, old: str, new: str
) -> None:
    folder = copy_sql(tmp_path, (f"{file}.sql", old, new))
    with start(database, sweeps=False).client() as client:
        event = client.create_event()
    with start(database, sweeps=False, sql_dir=folder).client() as client:
        assert code(client.reserve(event)) == (503, "OUTCOME_UNKNOWN")
        # The ticket is reserved, so a 500 would be wrong: it means that nothing has changed.
        assert client.find_event(event)["reservedTickets"] == 1
