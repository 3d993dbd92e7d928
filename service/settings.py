"""The settings: environment variables, read once, each understood or refused by name."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

T = TypeVar("T")

_ORIGIN = re.compile(
    r"(?!https://\S*:443$|http://\S*:80$)"  # browsers leave a default port out
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:]+\])(?::[1-9]\d{0,4})?"
)

PACKAGE = Path(__file__).parent


def resource(name: str) -> Path:
    """Return the folder ``sql`` or ``migrations``: of the checkout, or carried in the wheel."""
    beside = PACKAGE.parent / name
    return beside if beside.is_dir() else PACKAGE / name


class SettingsError(Exception):
    """A setting has a value that is not understood. The text is one line for its owner."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set from outside. Each field is the variable of the same name, in capitals."""

    database_url: str | None
    """An existing PostgreSQL; None: an embedded one under ``data_dir``."""
    data_dir: Path
    host: str
    port: int
    workers: int
    hold_seconds: int
    max_tickets_per_request: int
    organizer_token: str | None
    """When set, the organiser's routes ask for it."""
    cors_origins: tuple[str, ...]
    """Whose pages a browser lets call the service; ``*`` for any."""
    log_format: str
    """``text`` for people, ``json`` for machines."""
    log_level: str
    batch_across_events: bool
    """Whether one transaction may carry requests for several events."""
    queue_limit: int
    """How many requests of one worker may wait for the write path at once."""
    sql_dir: Path
    """Where the statements are read from."""


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from environment variables; an empty one counts as unset.

    Raises:
        SettingsError: for the first value that is not understood.
    """

    def read(name: str, parse: Callable[[str], T], default: T) -> T:
        text = environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(f"{name}={text} is not understood: {error}") from None

    return Settings(
        database_url=_database_url(environ.get("DATABASE_URL", "").strip()),
        data_dir=read("DATA_DIR", lambda text: Path(text).expanduser().resolve(), _state_dir()),
        host=read("HOST", str, "127.0.0.1"),
        port=read("PORT", _integer(0, 65_535), 8000),
        workers=read("WORKERS", _integer(1, 64), 1),
        hold_seconds=read("HOLD_SECONDS", _integer(1, 31_536_000), 900),
        max_tickets_per_request=read("MAX_TICKETS_PER_REQUEST", _integer(1, 1000), 10),
        organizer_token=_token(environ.get("ORGANIZER_TOKEN", "").strip()),
        cors_origins=read("CORS_ORIGINS", _origins, ()),
        log_format=read("LOG_FORMAT", _one_of("text", "json"), "text"),
        log_level=read("LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "info"),
        batch_across_events=read("BATCH_ACROSS_EVENTS", _yes_or_no, True),
        queue_limit=read("QUEUE_LIMIT", _integer(1, 1_000_000), 5000),
        sql_dir=read("SQL_DIR", lambda text: Path(text).expanduser(), resource("sql")),
    )


def _state_dir() -> Path:
    """Return the folder for state that outlives the process (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/holdfast")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "holdfast"


def _database_url(text: str) -> str | None:
    """Return the URL in libpq's form; yoyo's names the driver in its scheme."""
    if not text:
        return None
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        # The value may hold a password: it is not repeated.
        raise SettingsError("DATABASE_URL is not understood: it begins with postgresql://")
    try:
        conninfo_to_dict(f"postgresql://{rest}")
    except ProgrammingError:
        raise SettingsError("DATABASE_URL is not understood by libpq") from None
    return f"postgresql://{rest}"


def _token(text: str) -> str | None:
    """Return a token that a header can carry; it is not repeated when it cannot be."""
    if not all("!" <= character <= "~" for character in text):
        raise SettingsError("ORGANIZER_TOKEN is not understood: visible ASCII without spaces is")
    return text or None


def _origins(text: str) -> tuple[str, ...]:
    """Read origins as browsers send them (RFC 6454, section 6.2)."""
    origins = tuple(origin.strip() for origin in text.split(","))
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("* is, or origins such as https://shop.example,https://www.shop.example")
    return origins


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise ValueError(f"a whole number from {lowest} to {highest} is")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"one of {', '.join(words)} is")
        return text.lower()

    return parse


def _yes_or_no(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"
