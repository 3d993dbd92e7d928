"""Search: ``q`` finds names in any case and in any normal form, whatever the database's locale."""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, assume, example, given, settings

from service.database.grants import grant
from service.database.migrations import migrate
from service.database.statements import load_statements
from service.settings import resource
from tests.support.citus import not_on_citus
from tests.support.client import Client
from tests.support.database import SERVICE_ROLE, Database, create_database
from tests.support.oldest_postgres import run_oldest_postgres
from tests.support.run_log import RUN_LOG
from tests.support.services import RunningService, run_service, settings_for_tests
from tests.support.waiting import WAIT_SECONDS

pytestmark = not_on_citus("a schema has no locale of its own")

STATEMENTS = load_statements(resource("sql"))
# It knows the case of ASCII letters only.
LOCALE_C = "template0 encoding 'UTF8' locale_provider libc locale 'C'"
# Each example of the property has a day of its own.
DAYS = (datetime(2040, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in count())


@contextmanager
def create_migrated_database(server: str, template: str) -> Iterator[Database]:
    """Create a database from a template without tables, and migrate it."""
    with create_database(server, template) as database:
        migrate(database.dsn, STATEMENTS)
        grant(database.dsn, STATEMENTS, SERVICE_ROLE)
        yield database


@pytest.fixture(scope="module", params=["default", "C", "C on PostgreSQL 15"])
def searched(
    request: pytest.FixtureRequest, server: str, template: str, data_dir: Path
) -> Iterator[Database]:
    """A database in the default locale or in the locale C, for all tests of this module."""
    with ExitStack() as stack:
        if "15" in request.param:
            server = stack.enter_context(run_oldest_postgres(data_dir / "searched"))
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"create role {SERVICE_ROLE} login".encode())
        template = "template1" if request.param == "default" else LOCALE_C
        yield stack.enter_context(create_migrated_database(server, template))


@pytest.fixture(scope="module")
def client(searched: Database) -> Iterator[Client]:
    """A client of one service for all tests of this module."""
    service = RunningService(searched, settings_for_tests())
    service.start()
    with Client(base_url=service.url, timeout=WAIT_SECONDS) as client:
        yield client
    service.stop()


def find_names(client: Client, q: str, day: datetime | None = None) -> list[str]:
    """Return the names of the events that a search finds, on one day or on all."""
    dates = {"from": day.isoformat(), "to": (day + timedelta(1)).isoformat()} if day else {}
    events = client.get("/events", params={"q": q, "limit": 100, **dates}).json()["data"]
    return [event["name"] for event in events]


@pytest.mark.parametrize(
    "spellings",
    [
        ["Οδος", "ΟΔΟΣ", "οδος", "οδοσ"],
        ["ÄRZTE", "ärzte", "Ärzte", "A\u0308rzte"],
        ["Straße", "STRASSE", "strasse", "STRAẞE"],
        ["Café", "CAFE\u0301", "cafe\u0301"],
        ["Ağrı", "AĞRI", "ağri"],
        ["Щелкунчик", "ЩЕЛКУНЧИК"],
        ["Gig", "GIG", "gig"],
    ],
    ids=lambda spellings: str(spellings[0]),
)
def test_each_spelling_of_a_name_finds_the_others(client: Client, spellings: list[str]) -> None:
    names = [f"{spelling} {number}" for number, spelling in enumerate(spellings)]
    for name in names:
        client.create_event(name=f"At the {name}")
    expected = [unicodedata.normalize("NFC", f"At the {name}") for name in names]
    for spelling in spellings:
        assert sorted(find_names(client, f"the {spelling} ")) == sorted(expected), spelling


def test_other_letters_are_not_found(client: Client) -> None:
    client.create_event(name="Señor Søren")
    for q in ("SENOR", "SOREN", "sören", "Søren_", "%", "\u0303"):
        assert find_names(client, q) == [], q


def test_a_decomposed_name_that_psql_inserted_is_found(client: Client, searched: Database) -> None:
    searched.insert_event(5, "Mu\u0308ller")
    for q in ("müller", "MU\u0308LLER"):
        assert find_names(client, q) == ["Müller"]


# Letters whose case or normal form matters, as far as Python and PostgreSQL know them.
LETTERS = [
    letter
    for letter in map(chr, range(0x110000))
    if unicodedata.category(letter) not in ("Cn", "Co", "Cs")
    and (letter.lower() != letter.upper() or unicodedata.normalize("NFD", letter) != letter)
]
# Python's title case of these has an accent that does not compose with its letter.
NO_TITLE_CASE = set("ᾷῇῷ")
FORMS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "lower case": str.lower,
    "title case": str.title,
    "NFD": lambda name: unicodedata.normalize("NFD", name),
}
names = st.lists(
    st.one_of(
        st.sampled_from(LETTERS),
        st.sampled_from([letter for letter in LETTERS if letter < "\u0600"]),
        st.characters(max_codepoint=0x2FF, exclude_characters="\0"),
    ),
    min_size=1,
    max_size=12,
).map(lambda letters: unicodedata.normalize("NFC", "".join(letters)))


def can_cut(text: str, position: int) -> bool:
    """Whether no letter is cut from an accent of its own."""
    before, after = text[:position], text[position:]
    composed = unicodedata.normalize("NFC", before) + unicodedata.normalize("NFC", after)
    return not unicodedata.combining(after[:1] or " ") and composed == unicodedata.normalize(
        "NFC", text
    )


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(names, st.sampled_from(list(FORMS)), st.integers(0, 30), st.integers(1, 30))
@example("Οδος", "upper case", 2, 2)
@example("ÄRZTE", "lower case", 0, 3)
@example("Café", "NFD", 2, 3)
@example("Μαΐου", "upper case", 0, 6)  # in upper case ΐ is three characters, which compose to two
def test_a_part_of_a_name_in_another_case_or_form_finds_it(
    client: Client, name: str, form: str, start: int, length: int
) -> None:
    assume(name.strip() and not (form == "title case" and NO_TITLE_CASE & set(name)))
    written = FORMS[form](name)
    q = written[start : start + length]
    assume(q and can_cut(written, start) and can_cut(written, start + length))
    day = next(DAYS)
    client.create_event(name=name, date=day.isoformat())
    assert find_names(client, q, day) == [name]


def test_a_server_without_unicode_says_so_at_the_start(server: str, template: str) -> None:
    with create_migrated_database(server, LOCALE_C) as database:
        # As if the server were older than 18 and built without ICU.
        for collation in database.psql("select collname from pg_collation"):
            if collation in ("pg_unicode_fast", "und-x-icu"):
                database.psql(f'alter collation pg_catalog."{collation}" rename to "hidden"')
        before = len(RUN_LOG.read())
        with run_service(database) as client:
            client.create_event(name="Ärzte")
            found = {q: find_names(client, q) for q in ("Ärzte", "ÄRZTE", "ärzte")}
        said = RUN_LOG.read()[before:]
    assert found == {"Ärzte": ["Ärzte"], "ÄRZTE": ["Ärzte"], "ärzte": []}
    assert said.count("this PostgreSQL is older than 18 and was built without ICU") == 1
