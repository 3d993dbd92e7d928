"""The settings: defaults, accepted values, and one-line errors for invalid values."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from service.settings import SettingsError, read_settings
from tests.support.paths import DOCS


def test_the_settings_have_defaults() -> None:
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
def test_a_database_url_may_have_the_form_of_libpq_or_of_yoyo(scheme: str) -> None:
    settings = read_settings({"DATABASE_URL": f"{scheme}://me:secret@db/tickets"})
    assert settings.database_url == "postgresql://me:secret@db/tickets"


def test_a_data_dir_may_be_relative_or_below_the_home() -> None:
    assert read_settings({"DATA_DIR": "here"}).data_dir == Path.cwd() / "here"
    assert read_settings({"DATA_DIR": "~/here"}).data_dir == Path.home() / "here"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORKERS", "many", "a whole number from 1 to 64"),
        ("WORKERS", "0", "a whole number from 1 to 64"),
        ("PORT", "abc", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "-1", "a whole number from 0 to 65535"),
        ("PORT", "８０", "a whole number from 0 to 65535"),
        ("HOLD_SECONDS", "1.5", "a whole number from 1 to 31536000"),
        ("MAX_TICKETS_PER_REQUEST", "0", "a whole number from 1 to 1000"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("BATCH_ACROSS_EVENTS", "maybe", "true or false"),
        ("QUEUE_LIMIT", "0", "a whole number from 1 to 1000000"),
        (
            "ALLOWED_HOSTS",
            "shop.example:80",
            "*, or names without a port such as shop.example,[::1]",
        ),
        ("CORS_ORIGINS", "shop", "*, or origins such as https://shop.example,https://www.shop."),
    ],
)
def test_an_invalid_value_is_an_error_that_says_what_is_expected(
    name: str, value: str, expected: str
) -> None:
    message = re.escape(f"{name}={value} is invalid: expected {expected}")
    with pytest.raises(SettingsError, match=f"^{message}"):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("DATABASE_URL", "mysql://me:secret@db/tickets", "begins with postgresql://"),
        ("DATABASE_URL", "postgresql://me:secret%zz@db/tickets", "%40, %2F and %25"),
        ("ORGANIZER_TOKEN", "a secret", "visible ASCII characters without spaces"),
    ],
)
def test_an_error_does_not_repeat_a_secret(name: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is invalid: .*{remedy}") as error:
        read_settings({name: value})
    assert "secret" not in str(error.value)


def test_the_reference_lists_all_settings_with_their_defaults() -> None:
    table = (DOCS / "reference" / "settings.md").read_text().partition("\n## Commands")[0]
    documented = {
        name: default
        for names, defaults in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", table, re.M)
        for name, default in zip(names.split(", "), defaults.split(", "), strict=False)
    }
    settings = asdict(read_settings({}))
    assert list(documented) == [f"`{name.upper()}`" for name in settings]
    machine_dependent = ("data_dir", "sql_dir")
    for name, value in settings.items():
        if name not in machine_dependent:
            default = documented[f"`{name.upper()}`"]
            assert default.startswith(f"`{str(value).lower()}`" if value else "none"), name
