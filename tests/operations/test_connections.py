"""Connections to PostgreSQL: their options, the values they carry, and when they are given up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from service import limits
from service.database.connections import (
    ADAPTERS,
    PLAIN_POSTGRES,
    Pool,
    conninfo,
    create_pool,
    leaves_outcome_unknown,
    loggable_dsn,
)
from service.database.pipeline import NotSent, Pipeline
from tests.support.batches import STATEMENTS
from tests.support.database import Database

OPTIONS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "2s",
    "application_name": "holdfast",
    "client_encoding": "UTF8",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


def show(connection: psycopg.Connection, names: Any) -> dict[str, str]:
    """Return settings of a session."""
    shown = {}
    for name in names:
        row = connection.execute(f"show {name}".encode()).fetchone()
        assert row is not None
        shown[name] = row[0]
    return shown


def test_a_connection_has_the_options_of_the_service(database: Database) -> None:
    (name,) = database.psql("select current_database()")
    unfavorable = {
        "TimeZone": "Asia/Kathmandu",
        "DateStyle": "SQL, DMY",
        "default_transaction_isolation": "serializable",
        "statement_timeout": "0",
    }
    for setting, value in unfavorable.items():
        database.psql(f"alter database {name} set {setting} = '{value}'")
    with psycopg.connect(conninfo(database.dsn, PLAIN_POSTGRES.write_options)) as connection:
        shown = show(connection, OPTIONS)
    assert shown.pop("DateStyle").startswith("ISO")
    assert shown == {name: value for name, value in OPTIONS.items() if name != "DateStyle"}


def test_the_options_of_the_url_are_kept(database: Database) -> None:
    options = "-csearch_path=elsewhere -cdefault_transaction_isolation=serializable"
    dsn = psycopg.conninfo.make_conninfo(database.dsn, options=options, application_name="shop")
    with psycopg.connect(conninfo(dsn)) as connection:
        shown = show(connection, ["search_path", "application_name"])
        isolation = show(connection, ["default_transaction_isolation"])
    assert shown == {"search_path": "elsewhere", "application_name": "shop"}
    # But for those that the service relies on.
    assert isolation == {"default_transaction_isolation": "read committed"}


def test_a_pooler_gets_no_options() -> None:
    assert "options" not in conninfo_to_dict(conninfo("host=pooler", behind_pooler=True))


def test_both_ends_of_a_connection_detect_a_lost_peer() -> None:
    parameters = conninfo_to_dict(conninfo("host=far"))
    expected = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2}
    assert {name: int(str(parameters[name])) for name in expected} == expected
    assert int(str(parameters["tcp_user_timeout"])) == 5000
    options = [f"-c tcp_{name}={value}" for name, value in expected.items()]
    for option in (*options, "-c tcp_user_timeout=5000"):
        assert option in str(parameters["options"])


def test_an_address_is_shown_without_its_password() -> None:
    shown = loggable_dsn("postgresql://alice:secret@db.example:5433/shop")
    assert shown == "db.example:5433, database shop"


@pytest.mark.parametrize("sqlstate", [None, "08006", "08P01", "57P01", "57P05"])
def test_an_error_that_ends_the_connection_leaves_the_outcome_unknown(
    sqlstate: str | None,
) -> None:
    error = psycopg.errors.lookup(sqlstate)() if sqlstate else psycopg.OperationalError()
    assert leaves_outcome_unknown(error)


@pytest.mark.parametrize("sqlstate", ["40001", "57014", "53100", "23505"])
def test_an_error_that_ends_the_transaction_alone_is_an_outcome(sqlstate: str) -> None:
    assert not leaves_outcome_unknown(psycopg.errors.lookup(sqlstate)())


@pytest.mark.parametrize("has_null", [False, True])
def test_an_array_has_the_elements_that_were_sent(database: Database, has_null: bool) -> None:
    texts: list[str | None] = ['a"b', "a\\b", "a,b", "{}", "null", " ", ""]
    texts += [None] * has_null
    with psycopg.connect(database.dsn, context=ADAPTERS) as connection:
        rows = connection.execute("select unnest(%s::text[])", [texts]).fetchall()
    assert [row[0] for row in rows] == texts


def test_integers_have_one_type(database: Database) -> None:
    with psycopg.connect(database.dsn, context=ADAPTERS) as connection:
        for number in (1, 100_000, 10_000_000_000):
            row = connection.execute("select pg_typeof(%s)::text", [number]).fetchone()
            assert row == ("bigint",)


def run_on_pool(database: Database, work: Callable[[Pool], Awaitable[None]]) -> None:
    """Run ``work`` on a new pool of one connection."""

    async def run() -> None:
        async with create_pool(database.dsn, "writes", 1, 10) as pool:
            await work(pool)

    asyncio.run(run())


def test_a_connection_in_use_for_too_long_is_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GIVE_UP_SECONDS", 0.1)

    async def sleep(pool: Pool) -> None:
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as connection:
                await connection.execute("select pg_sleep(1.9)")

    run_on_pool(database, sleep)


def test_a_returned_connection_is_not_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up: list[object] = []

    async def give_up(_: Pool, connection: object) -> None:
        given_up.append(connection)

    monkeypatch.setattr(limits, "GIVE_UP_SECONDS", 0.5)
    monkeypatch.setattr(Pool, "_give_up", give_up)

    async def use_briefly(pool: Pool) -> None:
        async with pool.connection():
            pass
        await asyncio.sleep(0.6)

    run_on_pool(database, use_briefly)
    assert given_up == []


def test_a_connection_that_is_returned_meanwhile_is_not_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the pool asks whether the server waits for a standby, the response comes."""

    async def return_meanwhile(pool: Pool) -> None:
        connection = await pool.getconn()

        async def is_waiting_for_standby() -> bool:
            await pool.putconn(connection)
            return False

        pool.is_waiting_for_standby = is_waiting_for_standby
        await pool._give_up(connection)
        async with pool.connection() as again:
            assert again is connection
            await again.execute("select")

    run_on_pool(database, return_meanwhile)


def test_a_batch_that_cannot_be_prepared_is_not_sent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its changes are BUSY, and not of unknown outcome."""

    async def fail(*_: object) -> Any:
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(Pipeline, "_exchange", fail)

    async def send(pool: Pool) -> None:
        async with pool.connection() as connection:
            with pytest.raises(NotSent):
                await Pipeline(list(STATEMENTS.values())).run(connection, [])

    run_on_pool(database, send)
