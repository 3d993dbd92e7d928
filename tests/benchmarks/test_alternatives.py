"""The alternatives that the service is measured against do not oversell either."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.benchmarks.contenders import serving
from tests.benchmarks.queued import CREATE_QUEUE
from tests.benchmarks.stores import Redis
from tests.benchmarks.ticket_rows import CREATE_ROWS, INSERT_ROWS
from tests.support.client import send_crowd
from tests.support.database import Database

pytestmark = pytest.mark.slow

SOLD_TICKETS = {
    "queue": "select count(*) from ticket_allocations",
    "ticket rows": "select count(*) from ticket_rows where user_fingerprint is not null",
}


@pytest.mark.parametrize("serves", ["redis", "queue", "ticket rows", "ticket rows, batched"])
def test_an_alternative_sells_what_it_acknowledges_and_no_more(
    unbalanced_database: Database, tmp_path: Path, serves: str
) -> None:
    database = unbalanced_database
    (event,) = database.psql(
        "insert into events (name, date, total_tickets) values ('Gig', '2030-01-01', 100) "
        "returning id"
    )
    serves, _, batched = serves.partition(", ")
    variables = {"BATCHED": "1"} if batched else {}
    with ExitStack() as stack, database.connect() as connection:
        if serves == "redis":
            if not Redis.is_installed():
                pytest.skip("redis-server is not installed: apt-get install redis-server")
            redis = stack.enter_context(Redis(tmp_path, "everysec"))
            redis.call("hset", f"event:{event}", "available", "100")
            variables["REDIS_SOCKET"] = redis.socket
        connection.execute((CREATE_QUEUE + CREATE_ROWS).encode())
        connection.execute(INSERT_ROWS, [event, 100])
        connection.commit()
        url, _ = stack.enter_context(serving(serves, database.dsn, variables))
        responses = send_crowd([url], event, people=200, connections=50, quantity=3)
        assert set(responses) == {(201, ""), (409, "TICKETS_SOLD_OUT")}
        granted = responses[201, ""]
        # SKIP LOCKED may refuse a request although the skipped rows are released later.
        assert granted <= 33 if serves == "ticket rows" and not batched else granted == 33
        if serves == "redis":
            assert redis.call("llen", f"tickets:{event}") == [str(3 * granted)]
            assert redis.call("hget", f"event:{event}", "available") == ["1"]
        else:
            assert database.psql(SOLD_TICKETS[serves]) == [str(3 * granted)]
