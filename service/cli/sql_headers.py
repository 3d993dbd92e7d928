"""The headers of the files of ``sql/``: what each says about its statement.

A header is a comment: the file's name, what the statement does, its parameters with their types,
what it returns, what it locks and why it cannot oversell (for those that write), and last a psql
command that runs the file with literal values. Only the command line and the tests read headers.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from service.database.statements import Statement

SECTIONS = ("returns", "locks", "never oversells")
"""What a header speaks of behind its parameters, in this order: ``-- section: …``."""

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


def parse_header(statement: Statement) -> Header:
    """Parse the header of a statement.

    Raises:
        BrokenHeader: when a part is missing or does not fit the statement.
    """
    name, lines = statement.name, statement.header.splitlines()
    if not all(line.startswith("--") for line in lines):
        raise BrokenHeader("does not begin with a comment and an empty line")
    if lines[:2] != [f"-- {name}", "--"]:
        raise BrokenHeader("does not have its own name in line 1 and nothing in line 2")
    places = [place for section in SECTIONS if (place := _find(lines, f"-- {section}:"))]
    if places != sorted(places):
        raise BrokenHeader(f"does not have {', '.join(SECTIONS)} in this order")
    if not _find(lines, "-- returns:"):
        raise BrokenHeader("does not have a line -- returns:")
    types = _parameters(lines[2 : places[0]])
    if types != statement.types:
        raise BrokenHeader(
            f"has parameters {types} in its header and {dict(statement.types)} in its statement"
        )
    example = _example(lines[places[-1] :], name)
    if set(example) != set(types):
        odd = ", ".join(sorted(set(example) ^ set(types)))
        raise BrokenHeader(f"does not set exactly its parameters in its psql line: {odd}")
    prose = " ".join(line.removeprefix("--").strip() for line in lines[2 : places[0]])
    return Header(re.split(r"(?<=\.)\s", prose.strip())[0], types, example)


def psql_line(statement: Statement, folder: Path, values: Mapping[str, str]) -> str:
    """Return the command that runs a file of ``sql/`` in psql.

    Args:
        statement: the file.
        folder: where it lies.
        values: literals for parameters; those that are missing come from the header.
    """
    example = parse_header(statement).example
    words = ["holdfast", "psql"]
    for name in statement.types:
        words += ["-v", f"{name}={values.get(name, example[name])}"]
    return shlex.join([*words, "-f", str(folder / f"{statement.name}.sql")])


def _find(lines: list[str], beginning: str) -> int:
    """Return the number of the one line that begins so; 0 if there is none."""
    found = [number for number, line in enumerate(lines) if line.startswith(beginning)]
    if len(found) > 1:
        raise BrokenHeader(f"has {len(found)} lines {beginning}")
    return found[0] if found else 0


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
