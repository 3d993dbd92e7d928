"""The page docs/reference/sql.md, which documents the files of ``sql/``."""

import re
import textwrap

from service.cli.sql_headers import SECTIONS
from service.settings import resource
from tests.support.paths import DOCS

PAGE = DOCS / "reference" / "sql.md"

# The entry of one file.
ENTRY = re.compile(
    r"^### \[`(?P<name>\w+)`\]\(\S+\)\n.*?^- Called by: (?P<callers>.*?)\n- .*?(?=^##|\Z)",
    re.M | re.S,
)

# In a header: a section, and a row of the table that a section may end in.
_SECTION = re.compile(
    rf"^(?P<name>parameters|{'|'.join(SECTIONS)}):?(?P<text>.*?)(?=\n\n|\Z)", re.M | re.S
)
_ROW = re.compile(r"^  (?P<name>\w+(?:, …)?)(?: {2,}(?P<text>.*(?:\n {4,}.*)*))?$", re.M)


def format_entry(name: str, callers: str) -> str:
    """Return the page's entry of a file, made from the file's header and its callers."""
    text = (resource("sql") / f"{name}.sql").read_text().partition("\n\n")[0]
    comments = text.splitlines()[2:]
    header = "\n".join(line.removeprefix("-- ").removeprefix("--") for line in comments)
    sections = list(_SECTION.finditer(header))
    prose = header[: sections[0].start()].strip()
    facts = [f"Called by: {callers}", *map(_fact, sections)]
    return "\n\n".join(
        [
            f"### [`{name}`](../../sql/{name}.sql)",
            *(_wrap(paragraph) for paragraph in prose.split("\n\n")),
            "\n".join(_wrap(f"- {fact}", "  ") for fact in facts),
        ]
    )


def _fact(section: re.Match[str]) -> str:
    """Return a section as one sentence: its text, then the rows of its table."""
    rows = list(_ROW.finditer(section["text"]))
    remark = section["text"][: rows[0].start() if rows else None].strip()
    items = []
    for row in rows:
        text = row["text"] or ""
        if section["name"] == "parameters":
            type_, _, note = text.partition(" ")
            text = f"{type_} ({note.strip()})" if note else type_
        items.append(f"`{row['name']}` {text}".strip())
    parts = [part for part in (remark, "; ".join(items)) if part]
    return f"{section['name'].capitalize()}: {': '.join(parts)}"


def _wrap(text: str, indent: str = "") -> str:
    """Return a text, wrapped to the width of the page."""
    return textwrap.fill(
        " ".join(text.split()),
        115,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
