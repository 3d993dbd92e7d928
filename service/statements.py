"""The statements: the files of ``sql/``, as they lie on disk, made ready for the driver.

A file is one statement in psql's notation. Its header, the comment up to the first empty line,
stays behind; ``:'name'`` becomes a parameter of psycopg; the file's name goes along as a
comment, so that pg_stat_activity and the server's log tell which file is running.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_BYTES = 4095
"""psycopg does not keep longer texts, and nobody reads them in one sitting."""

# What psql's own scanner tells apart; a variable counts only outside of all the others.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<text> \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
              | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$ )
    | (?P<cast> :: )
    | (?P<parameter> :'(?P<name>\w+)' )
    | (?P<bare> :["A-Za-z_{] )
    | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)


class BrokenStatement(Exception):
    """A file of ``sql/`` breaks the house rules. The text names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One file of ``sql/``."""

    name: str
    header: str
    query: bytes
    """For psycopg: ``%(name)s`` for each parameter, every other ``%`` doubled."""
    numbered: bytes
    """For PREPARE: ``$1``, ``$2``, … in the order of ``parameters``."""
    parameters: tuple[str, ...]
    """The names used, each once, in the order of their first use."""


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
    raw = file.read_bytes()
    if len(raw) > MAX_FILE_BYTES:
        raise BrokenStatement(f"{file} is longer than {MAX_FILE_BYTES} bytes")
    header, found, body = raw.decode().partition("\n\n")
    if not found or not all(line.startswith("--") for line in header.splitlines()):
        raise BrokenStatement(f"{file} does not begin with a comment and an empty line")
    if header.splitlines()[0] != f"-- {file.stem}":
        raise BrokenStatement(f"{file} does not have its own name in line 1")
    return parse_statement(file.stem, body, header)


def parse_statement(name: str, body: str, header: str = "") -> Statement:
    """Turn one statement from psql's notation into the driver's.

    Raises:
        BrokenStatement: when it is not one statement ended by ``;``, when a comment holds a
            parameter, or when a variable is not written as ``:'name'``.
    """
    parameters: dict[str, int] = {}
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
            raise BrokenStatement(f"{name} has a variable that is not written as :'name'")
        if token["comment"] and re.search(r":'\w+'", token[0]):
            raise BrokenStatement(f"{name} has a parameter inside a comment")
        ended = ended or bool(token["end"])
        for parts, known, shown in (
            (for_psycopg, between.replace("%", "%%"), token[0].replace("%", "%%")),
            (for_prepare, between, token[0]),
        ):
            parts.append(known)
            parts.append("" if token["end"] else shown)
        if token["name"]:
            number = parameters.setdefault(token["name"], len(parameters) + 1)
            for_psycopg[-1] = f"%({token['name']})s"
            for_prepare[-1] = f"${number}"
    if not ended:
        raise BrokenStatement(f"{name} is not ended by ;")
    if body[position:].strip():
        raise BrokenStatement(f"{name} has more than one statement")

    def tagged(parts: list[str]) -> bytes:
        return f"/* {name} */ {''.join(parts).strip()}".encode()

    return Statement(name, header, tagged(for_psycopg), tagged(for_prepare), tuple(parameters))
