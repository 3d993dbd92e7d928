"""The statements: the files of ``sql/``, translated for the driver.

A file is one statement in psql's notation. Its header, the comment up to the first empty line,
is not sent. ``:'name'`` becomes a parameter of psycopg. The file's name is sent as a comment, so
that pg_stat_activity and the server's log show which file is running.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# The tokens of psql's own scanner, which replaces no variables inside comments and strings.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<quoted> \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
                | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$ )
    | (?P<parameter> :'(?P<name>\w+)'::(?P<type>[a-z]+(?:\[\])?) )
    | (?P<cast> :: )
    | (?P<other_variable> :["'A-Za-z_{] )
    | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)


_HEADER = re.compile(r"(?:--[^\n]*\n)*")


class BrokenStatement(Exception):
    """A file of ``sql/`` is missing or breaks a rule. The text names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One file of ``sql/``."""

    name: str
    # For psycopg: ``%(name)s`` for each parameter; every other ``%`` is doubled.
    query: bytes
    # For PREPARE: ``$1``, ``$2``, … in the order of ``types``.
    numbered: bytes
    # The type of each parameter, in the order of their first use.
    types: Mapping[str, str]
    # The comment at the top of the file.
    header: str

    @property
    def explained(self) -> bytes:
        """The query that runs the statement and returns its plan instead of its rows."""
        return b"explain (analyze, buffers) " + self.query


class Statements(Mapping[str, Statement]):
    """All statements, by name; raises BrokenStatement for a name that is missing."""

    def __init__(self, statements: Mapping[str, Statement], folder: Path) -> None:
        self._statements = statements
        self._folder = folder

    def __getitem__(self, name: str) -> Statement:
        try:
            return self._statements[name]
        except KeyError:
            raise BrokenStatement(
                f"{self._folder / name}.sql is missing: set SQL_DIR to a complete copy of sql/"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)


def load_statements(folder: Path) -> Statements:
    """Read all ``*.sql`` files of a folder.

    Raises:
        BrokenStatement: there are no files, or one breaks a rule.
    """
    files = sorted(folder.glob("*.sql"))
    if not files:
        raise BrokenStatement(f"{folder} has no .sql files: set SQL_DIR to a copy of sql/")
    return Statements({file.stem: _load(file) for file in files}, folder)


def _load(file: Path) -> Statement:
    text = file.read_text()
    header = _HEADER.match(text)[0]  # type: ignore[index]
    body = text.removeprefix(header)
    query, numbered, types = translate(file.stem, body)
    return Statement(file.stem, query, numbered, types, header)


def translate(name: str, body: str) -> tuple[bytes, bytes, dict[str, str]]:
    """Translate one statement from psql's notation to the driver's.

    Returns:
        The statement for psycopg, the same for PREPARE, and the types of its parameters.

    Raises:
        BrokenStatement: it is not one statement that ends with ``;``, a comment contains a
            parameter, or a variable is not written as ``:'name'::type`` with the same type
            everywhere.
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
        if token["other_variable"]:
            raise BrokenStatement(f"{name} has a variable that is not written as :'name'::type")
        if token["comment"] and re.search(r":'\w+'", token[0]):
            raise BrokenStatement(f"{name} has a parameter inside a comment")
        ended = ended or bool(token["end"])
        text = "" if token["end"] else token[0]
        for_psycopg += [between.replace("%", "%%"), text.replace("%", "%%")]
        for_prepare += [between, text]
        if token["name"]:
            if types.setdefault(token["name"], token["type"]) != token["type"]:
                raise BrokenStatement(f"{name} casts {token['name']} in two ways")
            for_psycopg[-1] = f"%({token['name']})s::{token['type']}"
            for_prepare[-1] = f"${list(types).index(token['name']) + 1}::{token['type']}"
    if not ended:
        raise BrokenStatement(f"{name} does not end with ;")
    if body[position:].strip():
        raise BrokenStatement(f"{name} has more than one statement")

    def tagged(parts: list[str]) -> bytes:
        return f"/* {name} */ {''.join(parts).strip()}".encode()

    return tagged(for_psycopg), tagged(for_prepare), types
