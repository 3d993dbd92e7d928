"""The settings: understood, or refused with one line that names them."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from service.settings import SettingsError, read_settings
from tests.support.paths import DOCS


def test_without_any_variable_the_defaults_hold() -> None:
    settings = read_settings({})
    assert settings.database_url is None
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert (settings.hold_seconds, settings.max_tickets_per_request) == (900, 10)
    assert settings.organizer_token is None
    assert settings.batch_across_events is True


def test_an_empty_variable_counts_as_unset() -> None:
    assert read_settings({"PORT": "", "DATABASE_URL": " ", "ORGANIZER_TOKEN": ""}) == (
        read_settings({})
    )


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_database_url_may_be_in_libpqs_or_yoyos_form(scheme: str) -> None:
    settings = read_settings({"DATABASE_URL": f"{scheme}://me:secret@db/tickets"})
    assert settings.database_url == "postgresql://me:secret@db/tickets"


def test_a_data_dir_may_be_relative_or_in_the_home() -> None:
    assert read_settings({"DATA_DIR": "here"}).data_dir == Path.cwd() / "here"
    assert read_settings({"DATA_DIR": "~/here"}).data_dir == Path.home() / "here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "many"),
        ("WORKERS", "0"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "８０"),
        ("HOLD_SECONDS", "1.5"),
        ("MAX_TICKETS_PER_REQUEST", "0"),
        ("LOG_LEVEL", "loud"),
        ("BATCH_ACROSS_EVENTS", "maybe"),
        ("QUEUE_LIMIT", "0"),
    ],
)
def test_a_value_that_is_not_understood_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}={value} is not understood: .+$"):
        read_settings({name: value})


def test_a_database_url_that_is_not_understood_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"DATABASE_URL": "mysql://me:secret@db/tickets"})
    assert "secret" not in str(refused.value)


def test_the_reference_lists_every_setting_with_its_default() -> None:
    table = (DOCS / "reference" / "settings.md").read_text().partition("\n## Commands")[0]
    listed = {
        name: default
        for names, defaults in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", table, re.M)
        for name, default in zip(names.split(", "), defaults.split(", "), strict=False)
    }
    settings = asdict(read_settings({}))
    assert list(listed) == [f"`{name.upper()}`" for name in settings]
    of_the_machine = ("data_dir", "sql_dir")
    for name, value in settings.items():
        if name not in of_the_machine:
            shown = listed[f"`{name.upper()}`"]
            assert shown.startswith(f"`{str(value).lower()}`" if value else "none"), name
