"""The headers: what each file of ``sql/`` says of itself before its statement.

A header is a comment, and its order is always the same: the file's name, what it does, its
parameters with their types, what it returns, what it locks, why it never oversells, and last a
line that runs it in psql, on lines of its own, with literal values.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

SECTIONS = ("returns", "locks", "never oversells")
"""What each header has to speak of, in this order, each as ``-- section: …``."""

_PARAMETER = re.compile(r"--   (?P<name>\w+) {2,}(?P<type>[a-z]+(?:\[\])?)(?: {2,}\S.*)?")
_PSQL = re.compile(r"-- (?P<line>(?:holdfast )?psql -.*)")


class BrokenHeader(Exception):
    """A header does not follow the grammar. The text says how."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header, taken apart."""

    summary: str
    """What the statement does: its first sentence."""
    types: Mapping[str, str]
    """The parameters and their types, in the order of the header."""
    example: Mapping[str, str]
    """A literal for each parameter, as the psql line has it."""


def parse_header(name: str, text: str) -> Header:
    """Take a header apart.

    Raises:
        BrokenHeader: when something is missing, or the psql line sets other parameters.
    """
    lines = text.splitlines()
    if lines[:2] != [f"-- {name}", "--"]:
        raise BrokenHeader("does not have its own name in line 1 and nothing in line 2")
    places = [_find(lines, f"-- {section}:") for section in SECTIONS]
    if places != sorted(places):
        raise BrokenHeader(f"does not have {', '.join(SECTIONS)} in this order")
    types = _parameters(lines[2 : places[0]])
    example = _example(lines[places[-1] :], name)
    if set(example) != set(types):
        odd = ", ".join(sorted(set(example) ^ set(types)))
        raise BrokenHeader(f"does not set exactly its parameters in its psql line: {odd}")
    prose = " ".join(line.removeprefix("--").strip() for line in lines[2 : places[0]])
    return Header(re.split(r"(?<=\.)\s", prose.strip())[0], types, example)


def _find(lines: list[str], beginning: str) -> int:
    found = [number for number, line in enumerate(lines) if line.startswith(beginning)]
    if len(found) != 1:
        raise BrokenHeader(f"does not have one line {beginning}")
    return found[0]


def _parameters(lines: list[str]) -> dict[str, str]:
    begins = [number for number, line in enumerate(lines) if line.startswith("-- parameters")]
    if not begins:
        return {}
    found: dict[str, str] = {}
    for line in lines[begins[0] + 1 :]:
        parameter = _PARAMETER.fullmatch(line)
        if parameter:
            found[parameter["name"]] = parameter["type"]
        elif not line.startswith("--    ") and line != "--":
            raise BrokenHeader(f"has a line among its parameters that is none: {line}")
    return found


def _example(lines: list[str], name: str) -> dict[str, str]:
    begins = [number for number, line in enumerate(lines) if _PSQL.fullmatch(line)]
    if len(begins) != 1:
        raise BrokenHeader("does not have one psql line")
    line = "\n".join(line.removeprefix("--").strip() for line in lines[begins[0] :])
    words = shlex.split(line.replace("\\\n", " "))
    if words[-2:] != ["-f", f"sql/{name}.sql"]:
        raise BrokenHeader(f"has a psql line that does not end in -f sql/{name}.sql")
    set_ = [after for word, after in pairwise(words) if word == "-v"]
    return dict(one.split("=", 1) for one in set_)
