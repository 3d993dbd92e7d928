"""The command line: help that is a document, one line for what is not understood, completion."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from service.cli.commands import ACTIONS
from service.cli.help import COLUMNS, EXITS, PAGES, SETTINGS
from service.cli.parser import build_parser
from service.settings import Settings
from tests.support.commands import holdfast
from tests.support.database import Database
from tests.support.paths import DOCS

NOT_UNDERSTOOD = {
    "sell": "there is no command sell; holdfast --help",
    "audti": "there is no command audti; the nearest is audit; holdfast --help",
    "--port 80": "--port is not understood: settings are environment variables; holdfast --help",
    "serve --port 80": "serve: --port is not understood: settings are environment variables; holdf",
    "--verson": "--verson is not understood; the nearest is --version; holdfast --help",
    "audit --jso": "audit: --jso is not understood; the nearest is --json; holdfast audit --help",
    "migrate now": "migrate: now is not understood; holdfast migrate --help",
    "grant": "grant: ROLE is missing; holdfast grant --help",
    "forget": "forget: FINGERPRINT is missing; holdfast forget --help",
    "sql resrve_tickets": "sql: there is no statement resrve_tickets; the nearest is reserve_",
    "sql zzz": "sql: there is no statement zzz; holdfast sql lists all; holdfast sql --help",
    "sql find_events x=1": "sql: find_events has no parameter x; it has event_ids",
    "sql find_events x": "sql: x is not understood: key=value is",
    "demo --seconds 1.5": "demo: --seconds: 1.5 is not understood: a whole number from 3 to 600 is",
    "demo --picture no/such.svg": "demo: --picture: there is no folder no; holdfast demo --help",
    "demo --seconds": "demo: --seconds: expected one argument; holdfast demo --help",
}


@pytest.mark.parametrize("typed", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_told_in_one_line_with_the_remedy(typed: str) -> None:
    done = holdfast(*typed.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.removeprefix("holdfast").lstrip(": ").startswith(NOT_UNDERSTOOD[typed])
    assert line.endswith("--help tells more")


@pytest.mark.parametrize("command", ["", *PAGES])
def test_help_tells_what_it_does_with_examples_settings_and_exit_codes(command: str) -> None:
    done = holdfast(*command.split(), "--help", columns=COLUMNS + 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(len(line) for line in done.stdout.splitlines()) <= COLUMNS
    assert "\nexamples:\n" in done.stdout
    assert "\nexit codes:\n" in done.stdout
    for name in PAGES[command].settings if command else PAGES:
        assert f"\n  {name} " in done.stdout or f"\n    {name} " in done.stdout


def test_help_asks_nothing_of_the_settings() -> None:
    assert holdfast("audit", "--help", workers="many").returncode == 0


@pytest.mark.parametrize("command", PAGES)
def test_every_example_in_the_help_is_understood(command: str) -> None:
    for example in PAGES[command].examples:
        words = re.findall(r"holdfast\b[^|()#]*", example)
        assert words, example
        for line in words:
            typed = shlex.split(line.rstrip('"'))[1:] or ["serve"]
            assert build_parser().parse_args(typed).command in PAGES


@pytest.mark.parametrize("typed", ["-wXyZ_0123", "--json", "-- --help"])
def test_a_fingerprint_may_begin_with_a_dash(typed: str) -> None:
    parsed = build_parser().parse_args(["forget", *typed.split()])
    assert parsed.fingerprint == typed.split()[-1]


def test_every_command_has_a_page_and_an_action_and_every_setting_its_words() -> None:
    assert list(ACTIONS) == list(PAGES)
    assert list(SETTINGS) == [field.name.upper() for field in fields(Settings)]


def test_the_reference_has_every_command_option_and_exit_code_and_no_other() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text()
    sections = dict(re.findall(r"^## `holdfast (\w+)`$\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert list(sections) == list(PAGES)
    for command, section in sections.items():
        helped = holdfast(command, "--help").stdout
        options = set(re.findall(r"^  (?:-h, )?(--\w+)", helped, re.M)) - {"--help"}
        assert set(re.findall(r"^\| `(--\w+)", section, re.M)) == options
        for code, meaning in PAGES[command].exits.items():
            assert meaning in EXITS.values() or f"| {code} |" in section, (command, code)
    for code in EXITS:
        assert f"| {code} |" in text


def test_the_settings_page_has_every_setting_and_no_other() -> None:
    text = (DOCS / "reference" / "settings.md").read_text()
    rows = "".join(re.findall(r"^(\| `[A-Z].*?) \|", text, re.M))
    assert set(re.findall(r"`([A-Z_]+)`", rows)) == set(SETTINGS)


COMPLETIONS = {
    "holdfast au": ["audit"],
    "holdfast sql reserve_": ["reserve_tickets"],
    "holdfast sql reserve_tickets --e": ["--explain"],
}


@pytest.mark.parametrize("typed", COMPLETIONS)
def test_bash_completes_commands_options_and_statements(typed: str) -> None:
    scripts = Path(sys.executable).parent
    # What the Tab key does, by hand: bash calls the function with the line and the cursor.
    script = f"""
        eval "$(register-python-argcomplete holdfast)"
        COMP_LINE={shlex.quote(typed)} COMP_POINT={len(typed)} COMP_TYPE=9
        COMP_WORDS=($COMP_LINE) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p holdfast | sed 's/.*-F \\([^ ]*\\).*/\\1/') holdfast
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607 -- the machine's own
        env={"PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.strip() for line in done.stdout.splitlines()] == COMPLETIONS[typed]


def test_a_role_that_does_not_exist_is_told_with_the_remedy(database: Database) -> None:
    done = holdfast("grant", "nobody_here", database_url=database.dsn)
    assert done.returncode == 1
    said = 'holdfast: role "nobody_here" does not exist: create role comes first\n'
    assert done.stderr == said


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    line = f"{shlex.quote(sys.executable)} -m service sql | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.returncode, done.stderr) == (0, "")
