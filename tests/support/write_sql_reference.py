"""Rewrites docs/reference/sql.md from the headers of the SQL files.

Run it with ``python -m tests.support.write_sql_reference``. The order of the entries and their
lists of callers are kept as they are in the page.
"""

from tests.support.sql_reference import ENTRY, PAGE, format_entry

PAGE.write_text(
    ENTRY.sub(
        lambda match: format_entry(match["name"], match["callers"].replace("\n  ", " ")) + "\n\n",
        PAGE.read_text(),
    ).rstrip("\n")
    + "\n"
)
