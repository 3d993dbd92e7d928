"""The settings: environment variables, read and validated once at the start."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from service import limits

T = TypeVar("T")

_ORIGIN = re.compile(
    r"(?!https://\S*:443$|http://\S*:80$)"  # browsers omit a default port
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:]+\])(?::[1-9]\d{0,4})?"
)

_HOST_NAME = re.compile(r"\*|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

PACKAGE = Path(__file__).parent


def resource(name: str) -> Path:
    """Return the folder ``sql`` or ``migrations`` of the checkout, or else of the wheel."""
    in_checkout = PACKAGE.parent / name
    return in_checkout if in_checkout.is_dir() else PACKAGE / name


class SettingsError(Exception):
    """A setting has an invalid value. The message is one line that says what is expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings. Each field is the environment variable of the same name, in capitals."""

    database_url: str | None  # an existing PostgreSQL; None: an embedded one in data_dir
    data_dir: Path
    host: str
    port: int
    workers: int
    hold_seconds: int
    max_hold_seconds: int  # how long a hold may last with all its extensions
    max_tickets_per_request: int
    max_waiting_entries: int  # how many entries may wait in line for one event
    organizer_token: str | None  # if set, the organizer's routes require it
    cors_origins: tuple[str, ...]  # websites that may call the service; "*": all
    allowed_hosts: tuple[str, ...]  # names in the header Host; "*": any; empty: see accepted_hosts
    log_format: str  # "text" or "json"
    log_level: str
    batch_across_events: bool  # whether one transaction may contain changes of several events
    queue_limit: int  # how many changes one worker may have pending; more are refused
    sql_dir: Path  # the folder of the statements

    @property
    def accepted_hosts(self) -> tuple[str, ...]:
        """The names in the header Host that the service accepts; "*" for any.

        Without a token, anyone who reaches the service is an organizer. On a loopback address only
        the programs of this machine should be organizers, and not the web pages in its browsers
        (DNS rebinding). So only the names of loopback addresses are accepted then.
        """
        if self.allowed_hosts:
            return self.allowed_hosts
        if self.organizer_token is None and is_loopback(self.host):
            return _LOOPBACK_NAMES
        return ("*",)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from environment variables; an empty one counts as unset.

    Raises:
        SettingsError: for the first invalid value.
    """

    def read(name: str, parse: Callable[[str], T], default: T) -> T:
        text = environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(f"{name}={text} is invalid: {error}") from None

    hold_seconds = read("HOLD_SECONDS", _integer(1, limits.LONGEST_HOLD_SECONDS), 900)
    return Settings(
        database_url=_database_url(environ.get("DATABASE_URL", "").strip()),
        data_dir=read("DATA_DIR", lambda text: Path(text).expanduser().resolve(), _state_dir()),
        host=read("HOST", str, "127.0.0.1"),
        port=read("PORT", _integer(0, 65_535), 8000),
        workers=read("WORKERS", _integer(1, 64), 1),
        hold_seconds=hold_seconds,
        max_hold_seconds=read(
            "MAX_HOLD_SECONDS",
            _integer(hold_seconds, limits.LONGEST_HOLD_SECONDS),
            min(2 * hold_seconds, limits.LONGEST_HOLD_SECONDS),
        ),
        max_tickets_per_request=read("MAX_TICKETS_PER_REQUEST", _integer(1, 1000), 10),
        max_waiting_entries=read("MAX_WAITING_ENTRIES", _integer(1, 1_000_000), 100_000),
        organizer_token=_token(environ.get("ORGANIZER_TOKEN", "").strip()),
        cors_origins=read("CORS_ORIGINS", _origins, ()),
        allowed_hosts=read("ALLOWED_HOSTS", _host_names, ()),
        log_format=read("LOG_FORMAT", _one_of("text", "json"), "text"),
        log_level=read("LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "info"),
        batch_across_events=read("BATCH_ACROSS_EVENTS", _boolean, True),
        queue_limit=read("QUEUE_LIMIT", _integer(1, 1_000_000), 5000),
        sql_dir=read("SQL_DIR", lambda text: Path(text).expanduser(), resource("sql")),
    )


def _state_dir() -> Path:
    """Return the default of ``DATA_DIR`` (XDG Base Directory Specification)."""
    if os.geteuid() == 0:
        return Path("/var/lib/holdfast")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "holdfast"


def _database_url(text: str) -> str | None:
    """Return the URL for libpq; yoyo's scheme ``postgresql+psycopg`` is accepted too."""
    if not text:
        return None
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        # The message does not repeat the value, which may contain a password.
        raise SettingsError(
            "DATABASE_URL is invalid: expected a URL that begins with postgresql://"
        )
    try:
        conninfo_to_dict(f"postgresql://{rest}")
    except ProgrammingError:
        raise SettingsError(
            "DATABASE_URL is invalid: libpq cannot parse it; "
            "write @, / and % in a password as %40, %2F and %25"
        ) from None
    return f"postgresql://{rest}"


def _token(text: str) -> str | None:
    """Return the token if a header can contain it; the error does not repeat a secret."""
    if not all("!" <= character <= "~" for character in text):
        raise SettingsError(
            "ORGANIZER_TOKEN is invalid: expected visible ASCII characters without spaces"
        )
    return text or None


def _origins(text: str) -> tuple[str, ...]:
    """Parse origins in the form in which browsers send them (RFC 6454, section 6.2)."""
    origins = tuple(origin.strip() for origin in text.split(","))
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError(
            "expected *, or origins such as https://shop.example,https://www.shop.example"
        )
    return origins


def _host_names(text: str) -> tuple[str, ...]:
    """Parse names as they stand in the header Host, without a port."""
    names = tuple(name.strip().lower() for name in text.split(","))
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("expected *, or names without a port such as shop.example,[::1]")
    return names


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return text.lower()

    return parse


def _boolean(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"
