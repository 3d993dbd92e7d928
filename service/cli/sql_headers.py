"""Headers of the files of ``sql/``: parses the comment that describes a statement.

A header contains the file's name, what the statement does, its parameters with their types, what
it returns, what it locks and why it cannot oversell (if it writes), and last a psql command that
runs the file with literal values. Only the command line and the tests read headers.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from service.database.statements import Statement

# The sections after the parameters, in this order: "-- returns: …".
SECTIONS = ("returns", "locks", "never oversells")

_PARAMETER = re.compile(r"--   (?P<name>\w+) {2,}(?P<type>[a-z]+(?:\[\])?)(?: {2,}\S.*)?")
_PSQL = re.compile(r"-- (?:holdfast )?psql -.*")


class BrokenHeader(Exception):
    """A header has a wrong format. The message names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header."""

    summary: str  # the first sentence of what the statement does
    types: Mapping[str, str]  # of the parameters, in the order of the header
    example: Mapping[str, str]  # a literal for each parameter, from the psql command


def parse_header(statement: Statement) -> Header:
    """Parse the header of a statement.

    Raises:
        BrokenHeader: when a part is missing or does not match the statement.
    """
    try:
        return _parse(statement)
    except BrokenHeader as error:
        raise BrokenHeader(f"{statement.name}.sql {error}") from None


def _parse(statement: Statement) -> Header:
    name, lines = statement.name, statement.header.splitlines()
    if lines[:2] != [f"-- {name}", "--"]:
        raise BrokenHeader(f"must begin with its own name: -- {name} in line 1 and -- in line 2")
    starts = [start for section in SECTIONS if (start := _find(lines, f"-- {section}:"))]
    if starts != sorted(starts):
        raise BrokenHeader(f"does not have {', '.join(SECTIONS)} in this order")
    if not _find(lines, "-- returns:"):
        raise BrokenHeader("does not have a line -- returns:")
    types = _parameters(lines[2 : starts[0]])
    if types != statement.types:
        raise BrokenHeader(
            f"has parameters {types} in its header and {dict(statement.types)} in its statement"
        )
    example = _example(lines[starts[-1] :], name)
    if set(example) != set(types):
        difference = ", ".join(sorted(set(example) ^ set(types)))
        raise BrokenHeader(f"must set each parameter, and no other, in its psql line: {difference}")
    prose = " ".join(line.removeprefix("--").strip() for line in lines[2 : starts[0]])
    return Header(re.split(r"(?<=\.)\s", prose.strip())[0], types, example)


def psql_line(statement: Statement, folder: Path, values: Mapping[str, str]) -> str:
    """Return the command that runs a file of ``sql/`` in psql.

    Args:
        statement: the statement of the file.
        folder: the folder of the file.
        values: literals for parameters; a missing one is taken from the header's example.
    """
    example = parse_header(statement).example
    words = ["holdfast", "psql"]
    for name in statement.types:
        words += ["-v", f"{name}={values.get(name, example[name])}"]
    return shlex.join([*words, "-f", str(folder / f"{statement.name}.sql")])


def _find(lines: list[str], prefix: str) -> int:
    """Return the index of the only line with a prefix; 0 if there is no such line."""
    indexes = [index for index, line in enumerate(lines) if line.startswith(prefix)]
    if len(indexes) > 1:
        raise BrokenHeader(f"has {len(indexes)} lines {prefix}")
    return indexes[0] if indexes else 0


def _parameters(lines: list[str]) -> dict[str, str]:
    """Return the types of the parameters."""
    start = _find(lines, "-- parameters")
    types: dict[str, str] = {}
    for line in lines[start + 1 :] if start else ():
        parameter = _PARAMETER.fullmatch(line)
        if parameter:
            types[parameter["name"]] = parameter["type"]
        # A line that is indented further continues the description above it.
        elif not line.startswith("--    ") and line != "--":
            raise BrokenHeader(f"has an invalid line among its parameters: {line}")
    return types


def _example(lines: list[str], name: str) -> dict[str, str]:
    """Return the values that the psql command sets."""
    starts = [number for number, line in enumerate(lines) if _PSQL.fullmatch(line)]
    if len(starts) != 1:
        raise BrokenHeader("must have exactly one psql line")
    command = "\n".join(line.removeprefix("--").strip() for line in lines[starts[0] :])
    words = shlex.split(command.replace("\\\n", " "))
    if words[-2:] != ["-f", f"sql/{name}.sql"]:
        raise BrokenHeader(f"has a psql line that does not end in -f sql/{name}.sql")
    assignments = [value for option, value in pairwise(words) if option == "-v"]
    return dict(assignment.split("=", 1) for assignment in assignments)
