"""The command line: its help, one-line errors that name the remedy, and completion."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.commands import ACTIONS
from service.cli.help import EXIT_CODES
from service.cli.parser import build_parser, parse
from service.settings import Settings
from tests.support.commands import holdfast
from tests.support.database import Database
from tests.support.paths import DOCS

HELP_COLUMNS = 80
SETTINGS = [name.upper() for name in Settings.__dataclass_fields__]

USAGE_ERRORS = {
    "sell": "unknown command sell (see holdfast --help)",
    "audti": "unknown command audti: did you mean audit? (see holdfast --help)",
    "--verson": "unknown option --verson: did you mean --version? (see holdfast --help)",
    "audit --version": "audit: unknown option --version (see holdfast audit --help)",
    "--workers 2": "serve: unknown option --workers: set the environment variable WORKERS (see",
    "audit --sql-dir=x": "audit: unknown option --sql-dir: set the environment variable SQL_DIR",
    "serve --prot 80": "serve: unknown option --prot: did you mean --port? (see holdfast serve",
    "serve --port abc": "serve: --port: abc is invalid: expected a whole number from 0 to 65535 (",
    "audit --jso": "audit: unknown option --jso: did you mean --json? (see holdfast audit --help)",
    "migrate now": "migrate: unexpected argument now: remove it (see holdfast migrate --help)",
    "grant": "grant: missing argument ROLE (see holdfast grant --help)",
    "forget": "forget: missing argument FINGERPRINT (see holdfast forget --help)",
    "sql resrve_tickets": "sql: unknown statement resrve_tickets: did you mean reserve_tickets? (",
    "sql zzz": "sql: unknown statement zzz: list all with holdfast sql (see holdfast sql --help)",
    "sql find_events x=1": "sql: find_events has no parameter x: it has event_ids (see",
    "sql find_events x": "sql: x is invalid: expected key=value (see holdfast sql --help)",
    "demo --seconds 1.5": "demo: --seconds: 1.5 is invalid: expected a whole number from 3 to 600",
    "demo --picture no/such.svg": "demo: --picture: the folder no does not exist: create it (see",
    "demo --seconds": "demo: --seconds: expected one argument (see holdfast demo --help)",
}


@pytest.mark.parametrize("arguments", USAGE_ERRORS)
def test_a_usage_error_is_one_line_that_names_the_remedy(arguments: str) -> None:
    done = holdfast(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.removeprefix("holdfast").lstrip(": ").startswith(USAGE_ERRORS[arguments])
    assert line.endswith(" --help)")


@pytest.mark.parametrize("command", ["", *ACTIONS])
def test_the_help_has_examples_settings_and_exit_codes(command: str) -> None:
    done = holdfast(*command.split(), "--help", columns=HELP_COLUMNS + 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(len(line) for line in done.stdout.splitlines()) <= HELP_COLUMNS
    assert "\nexamples:\n" in done.stdout
    assert "\nexit codes:\n" in done.stdout
    assert ("\nenvironment:\n" in done.stdout) == (command != "")


def test_the_help_lists_every_command_and_every_setting() -> None:
    commands = re.findall(r"^    (\w+)  ", holdfast("--help").stdout, re.M)
    assert commands == list(ACTIONS)
    environment = holdfast("serve", "--help").stdout.partition("\nenvironment:\n")[2]
    assert re.findall(r"^  ([A-Z_]+)  ", environment, re.M) == SETTINGS


def test_the_help_reads_no_settings() -> None:
    assert holdfast("audit", "--help", workers="many").returncode == 0


@pytest.mark.parametrize("command", ACTIONS)
def test_the_parser_accepts_every_example_in_the_help(command: str) -> None:
    text = holdfast(command, "--help").stdout.partition("\nexamples:\n")[2]
    for example in text.partition("\n\n")[0].splitlines():
        invocations = re.findall(r"\bholdfast(?=\s|$)[^|()#]*", example)
        assert invocations, example
        for invocation in invocations:
            words = shlex.split(invocation.rstrip('"'))[1:]
            assert parse(build_parser(), words).command in ACTIONS


@pytest.mark.parametrize("arguments", [[], ["--port", "8080"], ["--host=::1"]])
def test_serve_is_the_default_command(arguments: list[str]) -> None:
    parser = build_parser()
    parsed = parse(parser, arguments)
    assert parsed.command == "serve"
    assert parsed == parse(parser, ["serve", *arguments])


@pytest.mark.parametrize("arguments", ["-wXyZ_0123", "--json", "-- --help"])
def test_a_fingerprint_may_begin_with_a_dash(arguments: str) -> None:
    parsed = build_parser().parse_args(["forget", *arguments.split()])
    assert parsed.fingerprint == arguments.split()[-1]


def test_the_reference_has_all_commands_options_and_exit_codes() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text()
    sections = dict(re.findall(r"^## `holdfast (\w+)`$\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert list(sections) == list(ACTIONS)
    for command, section in sections.items():
        text_of_help = holdfast(command, "--help").stdout
        options = set(re.findall(r"^  (?:-h, )?(--\w+)", text_of_help, re.M)) - {"--help"}
        assert set(re.findall(r"^\| `(--\w+)", section, re.M)) == options
        exit_codes = text_of_help.partition("\nexit codes:\n")[2]
        for code, meaning in re.findall(r"^  (\d+) +(.*)", exit_codes, re.M):
            assert meaning in EXIT_CODES.values() or f"| {code} |" in section, (command, code)
    for code in EXIT_CODES:
        assert f"| {code} |" in text


def test_the_settings_page_has_all_settings() -> None:
    text = (DOCS / "reference" / "settings.md").read_text()
    rows = "".join(re.findall(r"^(\| `[A-Z].*?) \|", text, re.M))
    assert set(re.findall(r"`([A-Z_]+)`", rows)) == set(SETTINGS)


COMPLETIONS = {
    "holdfast au": ["audit"],
    "holdfast sql reserve_": ["reserve_tickets"],
    "holdfast sql reserve_tickets --e": ["--explain"],
    "holdfast serve --p": ["--port"],
}


@pytest.mark.parametrize("line", COMPLETIONS)
def test_bash_completes_commands_options_and_statements(line: str) -> None:
    scripts = Path(sys.executable).parent
    # Does what bash does for the Tab key: calls the completion function with line and cursor.
    script = f"""
        eval "$(register-python-argcomplete holdfast)"
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9
        COMP_WORDS=($COMP_LINE) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p holdfast | sed 's/.*-F \\([^ ]*\\).*/\\1/') holdfast
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607 -- the system's bash
        env={"PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == COMPLETIONS[line]


def test_grant_says_how_to_create_a_missing_role(database: Database) -> None:
    done = holdfast("grant", "nobody_here", database_url=database.dsn)
    assert done.returncode == 1
    assert done.stderr == (
        'holdfast: role "nobody_here" does not exist: '
        "create it first, with the SQL command CREATE ROLE\n"
    )


def test_a_closed_pipe_is_no_error() -> None:
    line = f"{shlex.quote(sys.executable)} -m service sql | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.returncode, done.stderr) == (0, "")
