"""The page docs/reference/sql.md: what it says of a file of ``sql/``."""

import re
import textwrap

from service.cli.sql_headers import SECTIONS
from service.settings import resource
from tests.support.paths import DOCS

PAGE = DOCS / "reference" / "sql.md"


ENTRY = re.compile(
    r"^### \[`(?P<name>\w+)`\]\(\S+\)\n.*?^- Called by: (?P<callers>.*?)\n- .*?(?=^##|\Z)",
    re.M | re.S,
)


def entry(name: str, callers: str) -> str:
    """Return what the page says of a file: its header, and who calls it."""
    text = (resource("sql") / f"{name}.sql").read_text().partition("\n\n")[0]
    bare = "\n".join(line.removeprefix("-- ").removeprefix("--") for line in text.splitlines()[2:])
    before, *sections = re.split(rf"^(?:{'|'.join(SECTIONS)}): ", bare, flags=re.M)
    prose, *parameters = re.split(r"^parameters(?:, |: |)", before, flags=re.M)
    facts = [f"Called by: {callers}"]
    if parameters:
        how, _, each = parameters[0].partition("\n")
        named = re.findall(r"^  (\w+) +(\S+)(.*(?:\n    .*)*)", each, re.M)
        listed = [
            f"`{name}` {type_}" + (f" ({' '.join(note.split())})" if note.strip() else "")
            for name, type_, note in named
        ]
        facts.append(f"Parameters{f' ({how})' if how else ''}: {'; '.join(listed)}")
    returned = re.sub(r"\n  (outcome|in_the_way): ", r"; \1: ", sections[0])
    facts += [f"Returns: {returned}", f"Locks: {sections[1]}"]
    paragraphs = [filled(one) for one in prose.strip().split("\n\n")]
    return "\n\n".join(
        [
            f"### [`{name}`](../../sql/{name}.sql)",
            *paragraphs,
            "\n".join(filled(f"- {one}", "  ") for one in facts),
        ]
    )


def filled(text: str, indent: str = "") -> str:
    """Return a text in lines of the page's length."""
    return textwrap.fill(
        " ".join(text.split()),
        115,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
