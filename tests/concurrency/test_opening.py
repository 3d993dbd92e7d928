"""A sale opens in every worker at once, by the clock of the database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.services import run_service
from tests.support.waiting import WAIT_SECONDS


def test_a_sale_opens_in_every_worker_at_once(database: Database) -> None:
    buyers = 16  # so many connections that each worker has some
    all_refused = Barrier(buyers + 1)
    with run_service(database, workers=2) as client, ThreadPoolExecutor(buyers) as pool:
        event = client.create_event(tickets=1000, saleOpensAt="2100-01-01T00:00:00Z")

        def buy() -> list[datetime]:
            """Ask until five tickets are granted; return when refused requests were sent."""
            refused: list[datetime] = []
            granted = 0
            with (
                Client(base_url=client.base_url, timeout=WAIT_SECONDS) as buyer,
                database.connect() as clock,
            ):
                clock.autocommit = True
                while granted < 5:
                    ((sent_at,),) = clock.execute("select clock_timestamp()").fetchall()
                    response = buyer.reserve(event)
                    if response.status_code == 201:
                        granted += 1
                        continue
                    assert code(response) == (409, "SALE_NOT_OPEN")
                    refused.append(sent_at)
                    if len(refused) == 1:
                        all_refused.wait(WAIT_SECONDS)
            return refused

        purchases = [pool.submit(buy) for _ in range(buyers)]
        all_refused.wait(WAIT_SECONDS)
        (now,) = database.psql("select extract(epoch from clock_timestamp())")
        opens_at = datetime.fromtimestamp(float(now), UTC) + timedelta(seconds=1)
        client.update_event(event, saleOpensAt=opens_at.isoformat()).raise_for_status()
        for purchase in purchases:
            assert max(purchase.result()) < opens_at
    assert database.psql(
        "select count(*), bool_and(tickets.created_at >= sale_opens_at)"
        " from ticket_allocations as tickets inner join events on events.id = event_id"
    ) == [f"{5 * buyers}|t"]
