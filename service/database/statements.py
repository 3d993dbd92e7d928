"""The statements: the files of ``sql/``, as they lie on disk, made ready for the driver.

A file is one statement in psql's notation. Its header, the comment up to the first empty line,
is not sent; ``:'name'`` becomes a parameter of psycopg; the file's name is sent as a comment, so
that pg_stat_activity and the server's log show which file is running.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What psql's own scanner tells apart; a variable counts only outside of all the others.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<text> \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
              | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$ )
    | (?P<parameter> :'(?P<name>\w+)'::(?P<type>[a-z]+(?:\[\])?) )
    | (?P<cast> :: )
    | (?P<bare> :["'A-Za-z_{] )
    | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)


_HEADER = re.compile(r"(?:--[^\n]*\n)*")


class BrokenStatement(Exception):
    """A file of ``sql/`` breaks the house rules. The text names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One file of ``sql/``."""

    name: str
    query: bytes
    """For psycopg: ``%(name)s`` for each parameter, every other ``%`` doubled."""
    numbered: bytes
    """For PREPARE: ``$1``, ``$2``, … in the order of ``types``."""
    types: Mapping[str, str]
    """The parameters that it uses, in the order of their first use, and what each is cast to."""
    header: str
    """The comment above it, for people."""

    @property
    def explained(self) -> bytes:
        """The statement, so that PostgreSQL runs it and returns the plan in place of the rows."""
        return b"explain (analyze, buffers) " + self.query


class Statements(Mapping[str, Statement]):
    """All statements, by name. A name that is missing is a ``BrokenStatement``, too."""

    def __init__(self, statements: Mapping[str, Statement], folder: Path) -> None:
        self._statements = statements
        self._folder = folder

    def __getitem__(self, name: str) -> Statement:
        try:
            return self._statements[name]
        except KeyError:
            raise BrokenStatement(f"{self._folder / name}.sql is missing") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)


def load_statements(folder: Path) -> Statements:
    """Read every ``*.sql`` of a folder.

    Raises:
        BrokenStatement: for the first file that breaks a rule.
    """
    files = sorted(folder.glob("*.sql"))
    if not files:
        raise BrokenStatement(f"{folder} has no .sql files")
    return Statements({file.stem: _load(file) for file in files}, folder)


def _load(file: Path) -> Statement:
    text = file.read_text()
    header = _HEADER.match(text)[0]  # type: ignore[index]
    body = text.removeprefix(header)
    query, numbered, types = translate(file.stem, body)
    return Statement(file.stem, query, numbered, types, header)


def translate(name: str, body: str) -> tuple[bytes, bytes, dict[str, str]]:
    """Turn one statement from psql's notation into the driver's.

    Returns:
        The statement for psycopg, the same for PREPARE, and the types of its parameters.

    Raises:
        BrokenStatement: when it is not one statement ended by ``;``, when a comment holds a
            parameter, or when a variable is not written as ``:'name'::type``, always the same.
    """
    types: dict[str, str] = {}
    for_psycopg: list[str] = []
    for_prepare: list[str] = []
    position = 0
    ended = False
    for token in _TOKEN.finditer(body):
        between = body[position : token.start()]
        position = token.end()
        if ended and (between.strip() or token.lastgroup != "comment"):
            raise BrokenStatement(f"{name} has more than one statement")
        if token["bare"]:
            raise BrokenStatement(f"{name} has a variable that is not written as :'name'::type")
        if token["comment"] and re.search(r":'\w+'", token[0]):
            raise BrokenStatement(f"{name} has a parameter inside a comment")
        ended = ended or bool(token["end"])
        shown = "" if token["end"] else token[0]
        for_psycopg += [between.replace("%", "%%"), shown.replace("%", "%%")]
        for_prepare += [between, shown]
        if token["name"]:
            if types.setdefault(token["name"], token["type"]) != token["type"]:
                raise BrokenStatement(f"{name} casts {token['name']} in two ways")
            for_psycopg[-1] = f"%({token['name']})s::{token['type']}"
            for_prepare[-1] = f"${list(types).index(token['name']) + 1}::{token['type']}"
    if not ended:
        raise BrokenStatement(f"{name} is not ended by ;")
    if body[position:].strip():
        raise BrokenStatement(f"{name} has more than one statement")

    def tagged(parts: list[str]) -> bytes:
        return f"/* {name} */ {''.join(parts).strip()}".encode()

    return tagged(for_psycopg), tagged(for_prepare), types
