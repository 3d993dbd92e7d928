"""The command line: what ``holdfast`` understands, and one line for what it does not.

What each command says of itself is in ``help.py``, and what it does in ``commands.py``.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from service.cli.help import DESCRIPTION, EPILOG, PAGES, SETTINGS

TAKE_ALL = ("psql", "forget")
"""What begins with a dash is theirs: psql's options, and a fingerprint may be anything."""
ARE_SETTINGS = ": settings are environment variables"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 could not, 2 not understood, 130 stopped by Ctrl-C."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed = parse(parser, sys.argv[1:] if arguments is None else arguments)
    from service.cli import commands  # takes half a second: neither --help nor Tab waits for it

    try:
        sys.exit(commands.run(parsed))
    except commands.NotUnderstood as error:
        parsed.parser.error(str(error))


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong and how to get help, and leaves with exit code 2."""

    def __init__(self, **options: Any) -> None:
        # No abbreviations: what is short for an option today may mean two tomorrow.
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=shape, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse what was typed."""
        message = re.sub("^the following arguments are required: (.*)", r"\1 is missing", message)
        message = message.removeprefix("argument ")
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help tells more\n")


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Understand what was typed, or leave."""
    first = next(iter(words), "serve")
    if first.startswith("-"):
        known = ("-h", "--help", "--version")
        if first not in known:
            remedy = _nearest(first, known) or ARE_SETTINGS
            parser.error(f"{first} is not understood{remedy}")
    elif first not in PAGES:
        parser.error(f"there is no command {first}{_nearest(first, PAGES)}")
    parsed, rest = parser.parse_known_args(words)
    if rest:
        options = re.findall(r"--\w+", parsed.parser.format_usage())
        name = rest[0].partition("=")[0].removeprefix("--").replace("-", "_").upper()
        remedy = ARE_SETTINGS if name in SETTINGS else _nearest(rest[0], options)
        parsed.parser.error(f"{rest[0]} is not understood{remedy}")
    if first in TAKE_ALL and list(words[1:]) == ["--help"]:
        parsed.parser.print_help()
        parser.exit()
    return parsed


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; the nearest is {near[0]}" if near else ""


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog="holdfast", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=version("holdfast"))
    parser.set_defaults(command="serve")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    made = {}
    for name, page in PAGES.items():
        command = commands.add_parser(
            name,
            help=page.summary,
            description=page.description,
            epilog=page.epilog,
            prefix_chars="\0" if name in TAKE_ALL else "-",
            add_help=name not in TAKE_ALL,
        )
        command.set_defaults(command=name, parser=command)
        made[name] = command
    _add_arguments(made)
    return parser


def _add_arguments(to: dict[str, Parser]) -> None:
    """Add what each command takes."""
    add = to["demo"].add_argument
    add(
        "--seconds",
        type=whole_number(3, 600),
        default=20,
        metavar="N",
        help="so long the crowd comes (20)",
    )
    add("--picture", type=output_file, metavar="FILE", help="draw what was shown, as SVG")
    to["psql"].add_argument("arguments", nargs=argparse.REMAINDER, help="of psql itself")
    to["dsn"].add_argument("--yoyo", action="store_true", help="in the form that yoyo takes")
    add = to["sql"].add_argument
    name = add("name", nargs="?", metavar="NAME", help="a statement; without it all are listed")
    name.completer = _statement_names  # type: ignore[attr-defined]
    add("values", nargs="*", metavar="key=value", help="of its parameters")
    add("--explain", action="store_true", help="run it, rolled back, for its plan")
    to["audit"].add_argument("--json", action="store_true", help="as one object of JSON")
    to["grant"].add_argument("role", metavar="ROLE", help="an existing role, not the owner")
    to["forget"].add_argument("fingerprint", metavar="FINGERPRINT", help="as the requests had it")


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return an argument type: a whole number within these bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(
                f"{text} is not understood: a whole number from {lowest} to {highest} is"
            )
        return int(text)

    return parse


def output_file(text: str) -> Path:
    """Return the path of a file to be written, whose folder must exist."""
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return Path(text)


def _statement_names(**_: object) -> list[str]:
    """Return the names of all statements, for the shell."""
    from service.settings import read_settings

    return sorted(file.stem for file in read_settings().sql_dir.glob("*.sql"))
