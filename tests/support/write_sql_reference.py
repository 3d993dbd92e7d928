"""Writes docs/reference/sql.md anew, from the headers.

Run it with ``python -m tests.support.write_sql_reference``.

Whoever calls a file stays as the page has it, and so does the order of the page.
"""

from tests.support.sql_reference import ENTRY, PAGE, entry

PAGE.write_text(
    ENTRY.sub(
        lambda found: entry(found["name"], found["callers"].replace("\n  ", " ")) + "\n\n",
        PAGE.read_text(),
    ).rstrip("\n")
    + "\n"
)
